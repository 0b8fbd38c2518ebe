"""Probably wrong labels of a tracked training, and draws by the probability that a label is right."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.features.suspects.clean import clean_params, clean_probabilities, clean_starts
    from drawstream.features.suspects.find import (
        FEW_WRONG,
        METHODS,
        NEEDED,
        Suspects,
        find_suspects,
        suspects_of,
        told_by_heart,
    )
    from drawstream.features.suspects.learner import CleanSampler
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
