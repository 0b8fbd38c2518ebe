"""Scores to probabilities, probabilities to index streams: arrays in, arrays out, NumPy and Numba only.

Each name is imported when it is first used: see `drawstream.samplers.exports`.
"""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.errors import DrawstreamError as DrawstreamError
    from drawstream.samplers.methods.coreset import forgetting_coreset as forgetting_coreset
    from drawstream.samplers.methods.coreset import k_center as k_center
    from drawstream.samplers.methods.coreset import random_coreset as random_coreset
    from drawstream.samplers.methods.dlis import DLIS as DLIS
    from drawstream.samplers.methods.importance import clip_weights as clip_weights
    from drawstream.samplers.methods.importance import normalize_weights as normalize_weights
    from drawstream.samplers.methods.infobatch import InfoBatch as InfoBatch
    from drawstream.samplers.methods.psgd import CSGD as CSGD
    from drawstream.samplers.methods.psgd import PSGD as PSGD
    from drawstream.samplers.methods.rho import RHOLoss as RHOLoss
    from drawstream.samplers.methods.selection import BatchSelector as BatchSelector
    from drawstream.samplers.methods.selection import OrderedSGD as OrderedSGD
    from drawstream.samplers.methods.selection import Selected as Selected
    from drawstream.samplers.methods.selection import SelectiveBackprop as SelectiveBackprop
    from drawstream.samplers.orders.order import Order as Order
    from drawstream.samplers.orders.order import Sequential as Sequential
    from drawstream.samplers.orders.stream import IndexStream as IndexStream
    from drawstream.samplers.orders.stream import RowSampler as RowSampler
    from drawstream.samplers.swift.fit import SwiftFit as SwiftFit
    from drawstream.samplers.swift.fit import refit as refit
    from drawstream.samplers.swift.sampler import DegenerateSampler as DegenerateSampler
    from drawstream.samplers.swift.sampler import SwiftParams as SwiftParams
    from drawstream.samplers.swift.sampler import SwiftSampler as SwiftSampler
    from drawstream.samplers.weights import effective_sample_size as effective_sample_size
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
