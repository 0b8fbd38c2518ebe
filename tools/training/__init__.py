"""The reference training loop and what a training is made of: models, methods, checkpoints, ranks, guards."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.training.accounting import Epoch, Run, SourceScores, Work
    from drawstream.tools.training.check_model import check_built
    from drawstream.tools.training.child import Kept, ModelChild, Reward, Streamed, TwoScores, keep, row_losses
    from drawstream.tools.training.descent import Descent, autocast, make_optimizer
    from drawstream.tools.training.evaluation import (
        NO_EVALUATION,
        Evaluation,
        Metric,
        Scores,
        average_precision,
        evaluate,
        top1,
    )
    from drawstream.tools.training.finetune import FineTune, flush_denormals
    from drawstream.tools.training.guard import compare_finished
    from drawstream.tools.training.loop import refuse_unfit, train
    from drawstream.tools.training.models import ResNet, build_model, load_weights, mlp, save_weights, small_stem
    from drawstream.tools.training.ranks import Ranks, join_ranks, leave_ranks
    from drawstream.tools.training.recipe import RECIPES, Amp, Recipe, named_recipe, overrides
    from drawstream.tools.training.setup import AUGMENT, EVAL_BATCH, Device, Framing, Setup, crop_rows
    from drawstream.tools.training.shots import ShotGroups
    from drawstream.tools.training.transfer import carry, fitted_on, needed_columns, origin
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
