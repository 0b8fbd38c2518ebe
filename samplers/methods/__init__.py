"""Methods of budgeted training: samplers that learn, and selectors of batches."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.samplers.methods.balance import (
        Balanced,
        Deferred,
        Progressive,
        balanced,
        class_weights,
        effective_number,
        repeat_factors,
    )
    from drawstream.samplers.methods.clean import Mixture, fit_mixture, rescaled
    from drawstream.samplers.methods.coreset import forgetting_coreset, highest_coreset, k_center, random_coreset
    from drawstream.samplers.methods.dlis import DLIS
    from drawstream.samplers.methods.folds import fold_numbers
    from drawstream.samplers.methods.importance import clip_weights, normalize_weights
    from drawstream.samplers.methods.infobatch import InfoBatch
    from drawstream.samplers.methods.psgd import CSGD, PSGD
    from drawstream.samplers.methods.rais import RAIS
    from drawstream.samplers.methods.rho import RHOLoss
    from drawstream.samplers.methods.selection import BatchSelector, OrderedSGD, Selected, SelectiveBackprop
    from drawstream.samplers.methods.soft_cap import SoftCap
    from drawstream.samplers.methods.state import check_array, check_identity
    from drawstream.samplers.methods.visits import (
        FULL,
        IGNORED,
        MEASURES,
        UNIT,
        Visits,
        add_visits,
        measure,
        measure_several,
        measure_values,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
