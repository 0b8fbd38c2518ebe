"""The reference training loop: one model, one loader, any stream; read it from top to bottom.

Every method of this project is trained by `train`, the uniform control included, so that only the stream differs.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from drawstream.features import HeadInput, label_losses, require_classes
from drawstream.pipeline import Batch, CropFilter, Loader
from drawstream.pipeline.images import Mixed
from drawstream.pipeline.labels import Kind
from drawstream.samplers.methods import PSGD, RAIS, InfoBatch
from drawstream.samplers.orders import MixedStream
from drawstream.tools.experiments import lower_is_better
from drawstream.tools.runs import training_identity
from drawstream.tools.training.accounting import Epoch, Run, SourceScores, Work
from drawstream.tools.training.checkpoint import AsTensors, Stateful, load_checkpoint, save_checkpoint
from drawstream.tools.training.descent import Descent, autocast
from drawstream.tools.training.evaluation import NO_EVALUATION, Evaluation, evaluate
from drawstream.tools.training.methods import NO_PARTS, Chooser, LearnedWeights, LoopParts, MixtureState, Step
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
        checkpoint: File that is rewritten after every epoch; if it is there, training resumes from it.
        identity: What decides the result, kept in the checkpoint; a checkpoint of another one is refused. None: that of
            the arguments here (`training_identity`).
        ranks: The processes that train together; rank 0 writes the checkpoint.
        on_epoch: Called after each epoch.
        on_step: Called after each step with the epochs done, a part of one included.

    Raises:
        ValueError: The model's class count is wrong, the loss is no longer finite, the checkpoint is of another run,
            a criterion is given mixed images, or a part does not go with the recipe.
    """
    refuse_unfit(recipe, parts, loader.catalog.label_kind)
    ranks = ranks or Ranks()
    source = loader.loader if isinstance(loader, CropFilter) else loader
    if recipe.accumulate > (batch := source.global_batch // ranks.world_size):
        raise ValueError(f"`accumulate <= {batch} images of a rank's batch` must hold, but got {recipe.accumulate}")
    if checkpoint is not None and identity is None:
        identity = training_identity(model, loader, recipe, parts=parts, evaluation=evaluation)
    loop = _Loop(model, loader, recipe, parts, ranks, on_step)
    rows = source.stream.rows
    run = load_checkpoint(checkpoint, identity or {}, loop.states) or Run(counts=torch.zeros(rows, dtype=torch.int64))
    for epoch in range(len(run.history), recipe.epochs):
        begin = time.perf_counter()
        work = Work(torch.zeros(rows, dtype=torch.int64, device=loop.device))
        mean, wait = loop.run_epoch(epoch, work)
        seconds = time.perf_counter() - begin
        if not math.isfinite(mean):
            raise ValueError(f"the training loss is {mean} in epoch {epoch}: lower the learning rate (now {recipe.lr})")
        work.reduce(ranks)
        run.counts += work.counts.cpu()
        due = (epoch + 1) % evaluation.every == 0 or epoch + 1 == recipe.epochs
        sets = evaluation.sets if due else {}
        with loop.descent.averaged():
            scores = {name: evaluate(model, held, amp=recipe.amp, ranks=ranks) for name, held in sets.items()}
            metrics = {name: each.metrics() for name, each in scores.items()}
            accuracy = {name: next(iter(each.values())) for name, each in metrics.items()}
            select = evaluation.select
            if select in accuracy and _is_best(run, select, metrics[select]):
                run.best_epoch = epoch
                run.best_state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        lr = loop.descent.optimizer.param_groups[0]["lr"]
        ended = epoch + 1 == recipe.epochs
        classes = {name: each.per_class() for name, each in scores.items() if ended}
        done = (seconds, wait, work.forward, work.backward)
        sources = {} if loop.sources is None else loop.sources.take(ranks)
        run.history.append(Epoch(epoch, mean, lr, accuracy, *done, metrics, classes, sources))
        save_checkpoint(checkpoint, identity or {}, run, loop.states, writes=ranks.writes)
        if on_epoch is not None:
            on_epoch(run.history[-1])
    loop.descent.finish()
    return run


def _is_best(run: Run, name: str, metrics: Mapping[str, float]) -> bool:
    """Whether the main metric of a set is better than at the best epoch so far."""
    metric, value = next(iter(metrics.items()))
    if run.best_epoch < 0:
        return True
    return value < run.best(name) if lower_is_better(metric) else value > run.best(name)


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


class _Loop:
    """The objects of a run, epoch by epoch."""

    def __init__(
        self,
        model: nn.Module,
        loader: Loader | CropFilter,
        recipe: Recipe,
        parts: LoopParts,
        ranks: Ranks,
        on_step: Callable[[float], None] | None,
    ) -> None:
        self.model, self.loader, self.recipe, self.parts, self.ranks = model, loader, recipe, parts, ranks
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.on_step, self.descent = on_step, Descent(model, recipe)
        self.chooser = None
        if parts.selector is not None:
            given = (parts.selector, model, loader.catalog, ranks)
            mix = parts.mix if parts.mix_first else None
            self.chooser = Chooser(*given, global_batch=parts.global_batch, amp=recipe.amp, mix=mix)
        self.states: dict[str, Stateful | None] = {
            "model": model,
            "descent": self.descent,
            "tracker": parts.tracker,
            "loss": parts.criterion,
            "sampler": None if parts.learner is None else AsTensors(parts.learner),
            "selector": self.chooser,
        }
        stream = (loader.loader if isinstance(loader, CropFilter) else loader).stream
        if isinstance(stream, MixedStream):  # epochs of its sources do not end with its own
            self.states["stream"] = MixtureState(stream, lambda: loader.epoch)
        self.parallel: nn.Module = DistributedDataParallel(model) if ranks.world_size > 1 else model
        if recipe.compile:
            self.parallel = torch.compile(self.parallel)  # type: ignore[assignment]
        self.device = next(model.parameters()).device
        self.sources = SourceScores.of(self.loader.catalog, self.device)
        self.weighted = parts.weighted or self.chooser is not None
        self.head = HeadInput(model) if parts.tracker is not None and parts.tracker.grand else None
        self.inputs: list[Tensor] = []  # of the last layer, in this step
        self.plain = parts.criterion is None and parts.mix is None and not self.weighted

    def run_epoch(self, epoch: int, work: Work) -> tuple[float, float]:
        """Train for an epoch; the mean loss over the ranks, and the seconds of waiting for the loader."""
        self.loader.set_epoch(epoch)
        if self.parts.tracker is not None:
            self.parts.tracker.set_epoch(epoch)
        self.model.train()
        before = self._beside()
        total, count, wait = torch.zeros((), device=self.device), 0.0, 0.0
        length = len(self.loader) if self.chooser is None else self.chooser.length(len(self.loader))
        for step in self._watched(epoch, work):
            batch = step.batch
            logits, loss, weights = self._backward(step, epoch)
            self.descent.step(self.recipe.lr_at(epoch * length + step.at, self.recipe.epochs * length))
            work.trained(batch.ids, weights)
            if self.parts.tracker is not None:
                inputs = torch.cat(self.inputs) if self.inputs else None
                self.parts.tracker.observe(batch.ids, logits, batch.labels, batch.weights, inputs=inputs)
                self.inputs.clear()
            for observer in (self.parts.learner, self.sources):
                if observer is not None:
                    observer.observe(batch.ids, logits, batch.labels, batch.weights)
            total += loss * step.share
            count += step.share
            wait += step.waited
            if self.on_step is not None:
                self.on_step(epoch + (step.at + 1) / length)
        self._end()
        work.add(before, self._beside())
        return float(self.ranks.total(total)) / max(count * self.ranks.world_size, 1), wait

    def _backward(self, step: Step, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of a step; its logits (n, C), mean loss, and weights (n,), 0 for rows without a part in it.

        In parts the loss of each is scaled by its rows, so that the sum is the mean over the whole batch.
        """
        if self.recipe.accumulate == 1:
            return self._backward_part(step, epoch)
        size = -(-len(step.batch.labels) // self.recipe.accumulate)
        rows = self._rows(step.batch.weights)
        found = []
        batch = step.batch
        for at in range(0, len(batch.labels), size):
            cut = slice(at, at + size)
            part = batch.rows(cut)
            found.append(self._backward_part(step._replace(batch=part), epoch, self._rows(part.weights) / rows))
        logits, losses, weights = zip(*found, strict=True)
        return torch.cat(logits), torch.stack(losses).sum(), torch.cat(weights)

    def _rows(self, weights: Tensor) -> Tensor:
        """Rows of all ranks that have a part in the gradient."""
        return self.ranks.total((weights > 0).sum())

    def _backward_part(self, step: Step, epoch: int, share: Tensor | float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        batch, mixed = step.batch, step.mixed
        if mixed is None and self.parts.mix is not None:
            at = {"epoch": epoch, "step": step.at, "rank": self.ranks.rank}
            mixed = self.parts.mix(batch.images, batch.labels, **at)
        images = batch.images if mixed is None else mixed.images
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.recipe.amp):
            logits = self.parallel(images)
            if step.at == 0:
                require_classes(logits, self.loader.catalog)
            if self.head is not None:
                self.inputs.append(self.head.of(logits)[0].detach())
            loss, weights = self._loss(step, logits, mixed, epoch)
        loss = loss * share
        self.descent.backward(loss)
        return logits.detach(), loss.detach(), weights

    def _end(self) -> None:
        """Bring together what the ranks saw."""
        if self.parts.tracker is not None:
            self.parts.tracker.reduce()
        if self.parts.learner is not None:
            self.parts.learner.reduce(None if self.ranks.world_size == 1 else self._total)
        if self.chooser is not None:
            self.chooser.end_epoch()

    def _total(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum of an array over the ranks."""
        return self.ranks.total(torch.from_numpy(values).to(self.device, copy=True)).cpu().numpy()

    def _beside(self) -> tuple[int, int]:
        """Rows that went forward and backward for a crop filter or for a loss's own weights so far, on this rank."""
        scored = self.loader.metrics["rows_scored"] if isinstance(self.loader, CropFilter) else 0
        work = getattr(self.parts.criterion, "work", None)
        forward, backward = (0, 0) if work is None else work.tolist()
        return scored + forward, backward

    def _watched(self, epoch: int, work: Work) -> Iterator[Step]:
        """The steps of an epoch, while the inputs of the last layer are caught if the tracker needs them."""
        with self.head or nullcontext():
            yield from self._steps(epoch, work)

    def _steps(self, epoch: int, work: Work) -> Iterator[Step]:
        """The steps of an epoch: the loader's batches, or what is chosen of them."""
        given = _timed(self.loader)
        if self.chooser is not None:
            return self.chooser.steps(given, work, epoch=epoch, batches=len(self.loader))
        return (Step(batch, waited, at, len(batch.labels)) for at, (batch, waited) in enumerate(given))

    def _loss(self, step: Step, logits: Tensor, mixed: Mixed | None, epoch: int) -> tuple[Tensor, Tensor]:
        """The mean loss, and weights (n,) that are 0 for rows without a part in it."""
        batch, smoothing = step.batch, self.recipe.label_smoothing
        if self.plain:
            return _mean_loss(logits, batch, self.ranks, smoothing), batch.weights
        if mixed is not None:
            losses = mixed.loss(logits, reduction="none")
            if smoothing:
                losses = (1 - smoothing) * losses - smoothing * F.log_softmax(logits, 1).mean(1)
        elif self.parts.criterion is not None:
            losses = self.parts.criterion(logits, batch, epoch)
            if not isinstance(losses, Tensor) or losses.shape != (len(batch.ids),):
                got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
                raise ValueError(f"the loss must give one number for each row, ({len(batch.ids)},), but gives {got}")
        else:
            losses = _row_losses(logits, batch.labels, smoothing)
        weights = batch.weights
        if self.chooser is not None:
            judged = self.chooser.judge(step, logits, losses, epoch=epoch)
            if judged is None:
                return losses.mean(), weights
            weights = judged
        return _mean_of(losses, weights, self.ranks, weighted=self.weighted), weights


def _mean_loss(logits: Tensor, batch: Batch, ranks: Ranks, smoothing: float) -> Tensor:
    """The labels' loss, averaged over the ranks to the mean over the global batch; fill (weight 0) does not count."""
    if ranks.world_size == 1:
        if batch.labels.ndim == 1:
            return F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        return label_losses(logits, batch.labels).mean()
    real = batch.weights > 0
    rows = ranks.total(real.sum())
    kept, labels = logits[real], batch.labels[real]
    return _row_losses(kept, labels, smoothing).sum() * ranks.world_size / rows


def _row_losses(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Losses of rows (n,), with smoothed classes."""
    if smoothing:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return label_losses(logits, labels)


def _mean_of(losses: Tensor, weights: Tensor, ranks: Ranks, *, weighted: bool) -> Tensor:
    """The same mean of given losses (n,), which are multiplied by the weights (n,) where they are `weighted`."""
    real = weights > 0
    if weighted:  # no boolean index: it would wait for the GPU
        return losses @ (weights * (ranks.world_size / ranks.total(real.sum()))).to(losses.dtype)
    if ranks.world_size == 1:
        return losses.mean()
    return losses[real].sum() * ranks.world_size / ranks.total(real.sum())


def _timed(loader: Loader | CropFilter) -> Iterator[tuple[Batch, float]]:
    """Batches with the seconds that the loop waited for each."""
    batches = iter(loader)
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begin
