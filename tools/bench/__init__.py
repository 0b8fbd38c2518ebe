"""Benchmarks: scripts that print a table and say what was compared."""
