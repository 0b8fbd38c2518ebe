"""The benchmark of methods under label noise."""
