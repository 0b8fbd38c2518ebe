"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only."""

from drawstream.samplers.coreset import forgetting_coreset, k_center, random_coreset
from drawstream.samplers.dlis import DLIS
from drawstream.samplers.fit import SwiftFit, refit
from drawstream.samplers.importance import clip_weights, normalize_weights
from drawstream.samplers.infobatch import InfoBatch
from drawstream.samplers.order import Order, Sequential
from drawstream.samplers.psgd import CSGD, PSGD
from drawstream.samplers.rho import RHOLoss
from drawstream.samplers.selection import BatchSelector, OrderedSGD, Selected, SelectiveBackprop
from drawstream.samplers.stream import IndexStream, RowSampler
from drawstream.samplers.swift import DegenerateSampler, SwiftParams, SwiftSampler
from drawstream.samplers.weights import effective_sample_size

__all__ = [
    "CSGD",
    "DLIS",
    "PSGD",
    "BatchSelector",
    "DegenerateSampler",
    "IndexStream",
    "InfoBatch",
    "Order",
    "OrderedSGD",
    "RHOLoss",
    "RowSampler",
    "Selected",
    "SelectiveBackprop",
    "Sequential",
    "SwiftFit",
    "SwiftParams",
    "SwiftSampler",
    "clip_weights",
    "effective_sample_size",
    "forgetting_coreset",
    "k_center",
    "normalize_weights",
    "random_coreset",
    "refit",
]
