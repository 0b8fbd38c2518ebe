"""The reference training loop: one model, one loader, any stream; read it from top to bottom.

Every method of this project is trained by `train`, the uniform control included, so that only the stream differs.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drawstream.pipeline import CropFilter, Loader
from drawstream.pipeline.labels import Kind
from drawstream.samplers.methods import PSGD, RAIS, InfoBatch
from drawstream.tools.runs import training_identity
from drawstream.tools.training.accounting import Epoch, Run
from drawstream.tools.training.checkpoints import (
    AFTER_EPOCHS,
    SAVE,
    SaveRequests,
    Saving,
    Stopped,
    load_checkpoint,
    save_checkpoint,
)
from drawstream.tools.training.epochs import EpochLoop
from drawstream.tools.training.evaluation import NO_EVALUATION, Evaluation
from drawstream.tools.training.methods import NO_PARTS, LearnedWeights, LoopParts
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.recipe import Recipe

__all__ = ["Epoch", "Evaluation", "Recipe", "Run", "train"]


def train(
    model: nn.Module,
    loader: Loader | CropFilter,
    recipe: Recipe,
    /,
    *,
    parts: LoopParts = NO_PARTS,
    evaluation: Evaluation = NO_EVALUATION,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
    saving: Saving = AFTER_EPOCHS,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Run:
    """Train a model in place.

    Under several ranks each loader gives its rank's part of the global batch, and the gradient is that of the mean loss
    over the global batch: the number of ranks changes nothing but the order of floating-point sums.

    Args:
        model: Gives logits (n, classes).
        loader: Batches of the training stream; its epoch is set here.
        recipe: How to train.
        parts: What is done beside drawing from the stream; their state is part of the checkpoint.
        evaluation: Held-out sets.
        checkpoint: File that is rewritten after every epoch; if it is there, training resumes from it, to the bit on
            as many ranks. The one before is kept beside it.
        identity: What decides the result, kept in the checkpoint; a checkpoint of another one is refused. None: that of
            the arguments here (`training_identity`).
        ranks: The processes that train together; rank 0 writes the checkpoint.
        saving: When the checkpoint is written within epochs too, and when the training ends early.
        on_epoch: Called after each epoch.
        on_step: Called after each step with the epochs done, a part of one included.

    Raises:
        ValueError: The model's class count is wrong, the loss is no longer finite, the checkpoint is of another run,
            a criterion is given mixed images, or a part does not go with the recipe.
        Stopped: `saving` asked for the end; the next call with the same arguments goes on.
    """
    refuse_unfit(recipe, parts, loader.catalog.label_kind)
    ranks = ranks or Ranks()
    source = loader.loader if isinstance(loader, CropFilter) else loader
    if recipe.accumulate > (batch := source.global_batch // ranks.world_size):
        raise ValueError(f"`accumulate <= {batch} images of a rank's batch` must hold, but got {recipe.accumulate}")
    if checkpoint is not None and identity is None:
        identity = training_identity(model, loader, recipe, parts=parts, evaluation=evaluation)
    loop = EpochLoop(model, loader, recipe, parts, ranks, on_step)
    found = load_checkpoint(checkpoint, identity or {}, loop.states, ranks)
    run = found or Run(counts=torch.zeros(source.stream.rows, dtype=torch.int64))
    loop.resumed = found is not None
    with SaveRequests(saving if checkpoint else AFTER_EPOCHS, ranks, loop.device) as requests:

        def save(asked: int | None) -> None:
            if asked is None:
                return
            loop.settle()
            save_checkpoint(checkpoint, identity or {}, run, loop.states, ranks)
            requests.saved()
            if asked > SAVE:
                raise Stopped(asked, f"{loop.stand()} is saved in {checkpoint}")

        for epoch in range(len(run.history), recipe.epochs):
            loop.run_epoch(epoch, lambda: save(requests.after_step()))
            save(requests.after_epoch())
            mean = loop.end_epoch()
            if not math.isfinite(mean):
                raise ValueError(
                    f"the training loss is {mean} in epoch {epoch}: lower the learning rate (now {recipe.lr})"
                )
            run.counts += loop.under_way.work.counts.cpu()
            due = (epoch + 1) % evaluation.every == 0 or epoch + 1 == recipe.epochs
            scores = loop.evaluate(evaluation, run, epoch) if due else {}
            run.history.append(loop.results(epoch, mean, scores))
            save(SAVE)
            if on_epoch is not None:
                on_epoch(run.history[-1])
    loop.descent.finish()
    return run


def refuse_unfit(recipe: Recipe, parts: LoopParts, kind: Kind) -> None:
    """Refuse parts that do not go with each other, with the recipe or with the kind of labels.

    Raises:
        ValueError: They do not.
    """
    loss, mix = parts.criterion, parts.mix
    if kind != "class":
        _refuse_of_kind(recipe, parts, kind)
    if loss is not None and mix is not None:
        raise ValueError(f"{loss} judges rows of one label, but {mix} gives several: leave out one of them")
    if loss is not None and recipe.label_smoothing:
        raise ValueError(f"label smoothing is of cross-entropy, but the loss is {recipe.loss}: leave out one of them")
    if isinstance(loss, LearnedWeights) and recipe.amp == "fp16":
        raise ValueError(f"{loss} needs gradients of gradients, which fp16 loses: give bf16 or off")
    whole = loss or parts.selector or mix
    if recipe.accumulate > 1 and whole is not None:
        raise ValueError(f"accumulate takes a batch in parts, but {whole} needs the whole: leave out one of them")


def _refuse_of_kind(recipe: Recipe, parts: LoopParts, kind: Kind) -> None:
    """Refuse parts that do not go with labels of another kind than one class."""
    if kind == "none" and parts.criterion is None:
        remedy = "give your own (--loss module:factory), or index with --label"
        raise ValueError(f"the images have no labels, so there is no loss: {remedy}")
    for part in (parts.mix, parts.criterion):
        if type(part).__module__.startswith("drawstream."):  # a user's own knows what it gets
            what = type(part).__name__
            raise ValueError(f"{what} needs one class of each image, but the labels are of kind {kind}: leave it out")
    if kind == "value" and isinstance(parts.learner, PSGD):
        law = f"{type(parts.learner).__name__} draws by the probability of the right class, but labels are values"
        raise ValueError(f"{law}: take one that goes by the loss or its gradient (sb, osgd, dlis, rais, infobatch)")
    if recipe.label_smoothing:
        raise ValueError(f"label smoothing is of classes, but the labels are of kind {kind}: leave it out")
    learner = parts.learner if isinstance(parts.learner, PSGD | RAIS | InfoBatch) else None
    judges = parts.tracker or parts.selector or learner
    if kind == "none" and judges is not None:
        raise ValueError(f"{type(judges).__name__} judges rows by their labels, but the images have none: leave it out")
