"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only."""

from drawstream.samplers.fit import SwiftFit, refit
from drawstream.samplers.importance import clip_weights, normalize_weights
from drawstream.samplers.order import Order, Sequential
from drawstream.samplers.stream import IndexStream, RowSampler
from drawstream.samplers.swift import DegenerateSampler, SwiftParams, SwiftSampler
from drawstream.samplers.weights import effective_sample_size

__all__ = [
    "DegenerateSampler",
    "IndexStream",
    "Order",
    "RowSampler",
    "Sequential",
    "SwiftFit",
    "SwiftParams",
    "SwiftSampler",
    "clip_weights",
    "effective_sample_size",
    "normalize_weights",
    "refit",
]
