"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only."""
