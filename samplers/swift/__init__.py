"""The Swift Sampler: scores to probabilities by cdf, cgf and ten parameters."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.swift.fit import SwiftFit, refit, refit_columns, requested_columns
    from drawstream.samplers.swift.fit_blocks import score_blocks
    from drawstream.samplers.swift.sampler import (
        MIN_GAP,
        DegenerateSampler,
        SwiftParams,
        SwiftSampler,
        Transform,
        effective_share,
        is_sampler,
        require_share,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
