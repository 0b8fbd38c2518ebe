"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only."""

from drawstream.samplers.fit import SwiftFit
from drawstream.samplers.swift import DegenerateSampler, SwiftParams, SwiftSampler, effective_share

__all__ = ["DegenerateSampler", "SwiftFit", "SwiftParams", "SwiftSampler", "effective_share"]
