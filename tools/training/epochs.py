"""An epoch of the reference training loop, step by step."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from drawstream.features import HeadInput, require_classes
from drawstream.pipeline import Batch, CropFilter, HostCopies, Loader
from drawstream.pipeline.images import Mixed
from drawstream.tools.experiments import lower_is_better
from drawstream.tools.training.accounting import Epoch, EpochUnderWay, Run, SourceScores
from drawstream.tools.training.checkpoints import (
    AsTensors,
    BufferState,
    LearnerOfAll,
    LoaderPlace,
    OfEachRank,
    RandomState,
    Stateful,
    TrackerOfAll,
    adds_up,
)
from drawstream.tools.training.descent import Descent, autocast, counted_loss, mean_loss, row_losses, weighted_loss
from drawstream.tools.training.evaluation import Evaluation, Scores, evaluate
from drawstream.tools.training.methods import Chooser, LoopParts, Step
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.recipe import Recipe


class EpochLoop:
    """The objects of a run, epoch by epoch.

    Attributes:
        states: The parts of a checkpoint, by name, in the order in which they are restored.
        under_way: Sums of the epoch.
        resumed: Whether steps were done before this process began.
    """

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
        self.device = next(model.parameters()).device
        self.chooser = None
        if parts.selector is not None:
            given = (parts.selector, model, loader.catalog, ranks)
            mix = parts.mix if parts.mix_first else None
            self.chooser = Chooser(*given, global_batch=parts.global_batch, amp=recipe.amp, mix=mix)
        source = loader.loader if isinstance(loader, CropFilter) else loader
        sources = SourceScores.of(loader.catalog, self.device)
        self.under_way = EpochUnderWay(source.stream.rows, sources, ranks, self.device)
        self.place, self.resumed, self._before = LoaderPlace(loader, ranks), False, (0, 0)
        self.copies = HostCopies()
        self._head = HeadInput(model) if parts.tracker is not None and parts.tracker.grand else None
        self._inputs: list[Tensor] = []  # of the last layer, in this step
        self.states = self._states()
        self._together = DistributedDataParallel(model) if ranks.world_size > 1 else None
        self.parallel: nn.Module = self._together or model
        if recipe.compile:
            self.parallel = torch.compile(self.parallel)  # type: ignore[assignment]
        self.weighted = parts.weighted or self.chooser is not None
        self.plain = parts.criterion is None and parts.mix is None and not self.weighted

    def _states(self) -> dict[str, Stateful | None]:
        parts, ranks = self.parts, self.ranks
        learner: Stateful | None = None
        if parts.learner is not None:
            of_all = LearnerOfAll(parts.learner, ranks, self.device)
            learner = of_all if adds_up(parts.learner) else OfEachRank(AsTensors(parts.learner), ranks, mergeable=False)
        return {
            "model": self.model,
            "descent": self.descent,
            "buffers": OfEachRank(BufferState(self.descent.buffers), ranks),
            "tracker": None if parts.tracker is None else TrackerOfAll(parts.tracker, ranks),
            "loss": None if parts.criterion is None else OfEachRank(parts.criterion, ranks),
            "sampler": learner,  # before the loader: a stream may ask it for the order of the epoch
            "loader": self.place,
            "learner": learner,  # and after it: a state of the stream holds the visits of rank 0 alone
            "selector": self.chooser,
            "epoch": self.under_way,
            "random": OfEachRank(RandomState(self.device), ranks),
        }

    def run_epoch(self, epoch: int, after_step: Callable[[], None]) -> None:
        """Train for an epoch, or for what is left of it."""
        self.loader.set_epoch(epoch)
        if self.parts.tracker is not None:
            self.parts.tracker.set_epoch(epoch)
        self.model.train()
        now = self.under_way
        now.begin(epoch)
        self.place.within = True
        self._before, begun = self._beside(), time.perf_counter()
        length = self._length()
        for step in self._watched(epoch):
            batch = step.batch
            logits, loss, weights = self._backward(step, epoch)
            self.descent.step(self.recipe.lr_at(epoch * length + step.at, self.recipe.epochs * length))
            now.work.trained(batch.ids, weights)
            seen = batch.ids, logits.float(), batch.labels, batch.weights
            if now.sources is not None:
                now.sources.observe(*seen)
            if self.parts.tracker is not None or self.parts.learner is not None:
                self.copies.put((*seen, torch.cat(self._inputs)) if self._inputs else seen, self._observe)
            self._inputs.clear()
            now.total += loss * (step.rows / self.ranks.world_size)
            now.count += step.rows
            now.wait += step.waited
            now.at = step.at + 1
            if self.on_step is not None:
                self.on_step(epoch + now.at / length)
            now.seconds += time.perf_counter() - begun
            after_step()
            begun = time.perf_counter()

    def _observe(
        self, ids: Tensor, logits: Tensor, labels: Tensor, weights: Tensor, inputs: Tensor | None = None
    ) -> None:
        """Let tracker and learner take note of a step, when its copies are on the CPU."""
        if self.parts.tracker is not None:
            self.parts.tracker.observe(ids, logits, labels, weights, inputs=inputs)
        if self.parts.learner is not None:
            self.parts.learner.observe(ids, logits, labels, weights)

    def end_epoch(self) -> float:
        """Bring together what the ranks saw; return the mean loss over them."""
        self.copies.drain()
        if self.parts.tracker is not None:
            self.parts.tracker.reduce()
        if self.parts.learner is not None:
            self.parts.learner.reduce(None if self.ranks.world_size == 1 else self._total)
        if self.chooser is not None:
            self.chooser.end_epoch()
        self.settle()
        self.place.within = self.under_way.epoch + 1 == self.recipe.epochs  # there is no next one to begin
        return self.under_way.end()

    def evaluate(self, evaluation: Evaluation, run: Run, epoch: int) -> dict[str, Scores]:
        """Score the model, as it is averaged, on held-out sets; note the weights of the best epoch."""
        self.ranks.join(list(self.descent.buffers().values()), evaluation.dist_bn)
        with self.descent.averaged():
            how: dict[str, Any] = {"amp": self.recipe.amp, "ranks": self.ranks, "flip": evaluation.tta == "flip"}
            scores = {name: evaluate(self.model, held, **how) for name, held in evaluation.sets.items()}
            select = evaluation.select
            if select is not None and _is_best(run, select, scores[select].metrics()):
                run.best_epoch = epoch
                run.best_state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        return scores

    def results(self, epoch: int, mean: float, scores: Mapping[str, Scores]) -> Epoch:
        """Return the results of an epoch (a collective call)."""
        now, lr = self.under_way, self.descent.optimizer.param_groups[0]["lr"]
        metrics = {name: each.metrics() for name, each in scores.items()}
        accuracy = {name: next(iter(each.values())) for name, each in metrics.items()}
        ended = epoch + 1 == self.recipe.epochs
        classes = {name: each.per_class() for name, each in scores.items() if ended}
        done = (now.seconds, now.wait, now.work.forward, now.work.backward)
        sources = {} if now.sources is None else now.sources.take(self.ranks)
        return Epoch(epoch, mean, lr, accuracy, *done, metrics, classes, sources)

    def stand(self) -> str:
        """Return where the run stands."""
        now = self.under_way
        return f"epoch {now.epoch + 1} of {self.recipe.epochs}, step {now.at} of {self._length()},"

    def _length(self) -> int:
        """Steps of an epoch."""
        return len(self.loader) if self.chooser is None else self.chooser.length(len(self.loader))

    def _arrange(self, images: Tensor) -> None:
        """Let DDP arrange the gradients as it does after its first backward pass; model and draws stay as they are.

        In another arrangement they are added up over more than two ranks in another order, with other last digits.
        """
        self.resumed = False
        if self._together is None:
            return
        kept = {name: value.clone() for name, value in self.model.named_buffers()}
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            with autocast(self.device, self.recipe.amp):
                loss = self.parallel(self._laid_out(images)).sum()
            loss.backward()
        self.descent.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in self.model.named_buffers():
                value.copy_(kept[name])

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images as they lie in memory for this model."""
        return images.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else images

    def _backward(self, step: Step, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of a step; its logits (n, C), mean loss, and weights (n,), 0 for rows without a part in it.

        In parts the loss of each is its part of the mean over the whole batch; the ranks meet at the last part.
        """
        n = len(step.batch.ids)
        size = -(-n // self.recipe.accumulate)
        found = []
        for at in range(0, n, size):
            part = step if size == n else step._replace(batch=step.batch.rows(slice(at, at + size)))
            with self._apart() if at + size < n else nullcontext():
                found.append(self._backward_part(part, n, epoch))
        if len(found) == 1:
            return found[0]
        logits, losses, weights = zip(*found, strict=True)
        return torch.cat(logits), torch.stack(losses).sum(), torch.cat(weights)

    def _apart(self) -> AbstractContextManager[object]:
        """Add gradients on this rank alone."""
        return nullcontext() if self._together is None else self._together.no_sync()

    def _backward_part(self, step: Step, whole: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `_backward`, of a part of its `whole` rows."""
        batch, mixed = step.batch, step.mixed
        if mixed is None and self.parts.mix is not None:
            at = {"epoch": epoch, "step": step.at, "rank": self.ranks.rank}
            mixed = self.parts.mix(batch.images, batch.labels, **at)
        with autocast(self.device, self.recipe.amp):
            logits = self.parallel(self._laid_out(batch.images if mixed is None else mixed.images))
            if step.at == 0:
                require_classes(logits, self.loader.catalog)
            if self._head is not None:
                self._inputs.append(self._head.of(logits)[0].detach())
            loss, weights = self._loss(step, whole, logits, mixed, epoch)
        self.descent.backward(loss)
        return logits.detach(), loss.detach(), weights

    def _loss(self, step: Step, whole: int, logits: Tensor, mixed: Mixed | None, epoch: int) -> tuple[Tensor, Tensor]:
        """The part of the mean loss, and weights (n,) that are 0 for rows without a part in it."""
        batch, smoothing, ranks = step.batch, self.recipe.label_smoothing, self.ranks.world_size
        part, full = len(batch.ids) / whole, step.rows == whole * ranks
        if self.plain and full:
            loss = mean_loss(logits, batch.labels, smoothing)
            return loss if part == 1 else loss * part, batch.weights
        losses = self._row_losses(logits, batch, mixed, epoch)
        if self.chooser is not None and not step.chosen:
            judged = self.chooser.judge(step, logits, losses, epoch=epoch)
            if judged is None:
                return losses.mean(), batch.weights
            return weighted_loss(losses, *judged, ranks), judged[0]
        if self.weighted:
            return weighted_loss(losses, batch.weights, step.rows, ranks), batch.weights
        if full:
            return losses.mean(), batch.weights
        return counted_loss(losses, batch.weights, step.rows, ranks), batch.weights

    def _row_losses(self, logits: Tensor, batch: Batch, mixed: Mixed | None, epoch: int) -> Tensor:
        """Losses (n,): of mixed labels, of the method, or by the kind of the labels."""
        smoothing = self.recipe.label_smoothing
        if mixed is not None:
            losses = mixed.loss(logits, reduction="none")
            return (1 - smoothing) * losses - smoothing * F.log_softmax(logits, 1).mean(1) if smoothing else losses
        if self.parts.criterion is None:
            return row_losses(logits, batch.labels, smoothing)
        losses = self.parts.criterion(logits, batch, epoch)
        if not isinstance(losses, Tensor) or losses.shape != (len(batch.ids),):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"the loss must give one number for each row, ({len(batch.ids)},), but gives {got}")
        return losses

    def _total(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum of an array over the ranks."""
        return self.ranks.total(torch.from_numpy(values).to(self.device, copy=True)).cpu().numpy()

    def _beside(self) -> tuple[int, int]:
        """Rows that went forward and backward for a crop filter or for a loss's own weights so far, on this rank."""
        scored = self.loader.metrics["rows_scored"] if isinstance(self.loader, CropFilter) else 0
        work = getattr(self.parts.criterion, "work", None)
        forward, backward = (0, 0) if work is None else work.tolist()
        return scored + forward, backward

    def settle(self) -> None:
        """Take note of all that was done so far: steps whose copies are under way, and work beside the steps."""
        self.copies.drain()
        after = self._beside()
        self.under_way.work.add(self._before, after)
        self._before = after

    def _watched(self, epoch: int) -> Iterator[Step]:
        """The steps that are left, while the inputs of the last layer are caught if the tracker needs them."""
        with self._head or nullcontext():
            for step in self._steps(epoch):
                if self.resumed:
                    self._arrange(step.batch.images)
                yield step

    def _steps(self, epoch: int) -> Iterator[Step]:
        """The steps that are left of an epoch: the loader's batches, or what is chosen of them."""
        given = self._given()
        if self.chooser is not None:
            return self.chooser.steps(given, self.under_way.work, epoch=epoch, batches=len(self.loader))
        first = self.under_way.at
        return (Step(batch, waited, at, rows) for at, (batch, waited, rows) in enumerate(given, first))

    def _given(self) -> Iterator[tuple[Batch, float, int]]:
        """Batches, with the seconds that the loop waited for each and the rows that count of it over all ranks."""
        batches = iter(self.loader)
        step = 0
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            waited = time.perf_counter() - begin
            yield batch, waited, self._count(step)
            step += 1

    def _count(self, step: int) -> int:
        """Rows of all ranks in a batch of the pass under way, fill left out."""
        filters = self.loader if isinstance(self.loader, CropFilter) else None
        plan = filters.loader.plan if filters else self.loader.plan  # type: ignore[union-attr]
        assert plan is not None, "a pass is under way"
        return plan.count(step) if filters is None else filters.kept(plan, step)


def _is_best(run: Run, name: str, metrics: Mapping[str, float]) -> bool:
    """Whether the main metric of a set is better than at the best epoch so far."""
    metric, value = next(iter(metrics.items()))
    if run.best_epoch < 0:
        return True
    return value < run.best(name) if lower_is_better(metric) else value > run.best(name)
