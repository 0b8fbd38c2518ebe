"""Methods in the training loop: what they draw and choose."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.training.methods.embeddings import embed
    from drawstream.tools.training.methods.filtering import Filtering, filtering_of
    from drawstream.tools.training.methods.losses import make_loss
    from drawstream.tools.training.methods.mixture_file import Mixture, read_mixture
    from drawstream.tools.training.methods.plan import (
        NO_PARTS,
        Balance,
        Budget,
        Clean,
        Inputs,
        LoopParts,
        TrainingPlan,
    )
    from drawstream.tools.training.methods.robust import LearnedWeights
    from drawstream.tools.training.methods.sampling import Sampling, sampler_of
    from drawstream.tools.training.methods.selective import Chooser, Step
    from drawstream.tools.training.methods.table import (
        BLUE,
        GRAY,
        GREEN,
        METHODS,
        ORANGE,
        PURPLE,
        Method,
        add_method,
        method_names,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
