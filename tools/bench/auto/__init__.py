"""The benchmark of AutoSampling."""
