"""The command line, the reference training loop, the demo and the report."""
