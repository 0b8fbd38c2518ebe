"""Counts of a training run, taken while it runs, and the results of each epoch.

Notation
    N, T   rows of the catalog, and epochs of the full run that a budget is a part of
    f, b   rows that went through a model forward, with gradient or without, and backward; fill included, evaluation not
    c      int64 (rows,): how often each row had a part in the gradient; fill has none
    B̂      effective budget (f + 2 b) / (3 N T): a backward pass is worth two forward passes

A backward pass goes through the whole batch that went forward: ordered SGD, which gives most of it no weight, pays for
all of it. What a crop filter scores with its model is counted too, and what a loss needs for weights of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drawstream.features import label_losses
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import entropy
from drawstream.tools.training.ranks import Ranks


@dataclass(slots=True)
class Work:
    """Work of the epoch under way, of this rank.

    Attributes:
        counts: c, on the device of the training.
        forward: f.
        backward: b.
    """

    counts: Tensor
    forward: int = 0
    backward: int = 0

    def trained(self, ids: Tensor, weights: Tensor, /) -> None:
        """A batch that went forward and backward; rows of weight 0 have no part in the gradient."""
        self.forward += len(ids)
        self.backward += len(ids)
        self.counts.index_add_(0, ids, (weights > 0).long())

    def add(self, before: tuple[int, int], after: tuple[int, int], /) -> None:
        """Rows of work beside the training steps, by what another counter of (f, b) said before and after it."""
        self.forward += after[0] - before[0]
        self.backward += after[1] - before[1]

    def reduce(self, ranks: Ranks, /) -> None:
        """Make it the work of all ranks (a collective call)."""
        both = ranks.total(torch.tensor([self.forward, self.backward], device=self.counts.device))
        self.forward, self.backward = (int(value) for value in both)
        ranks.total(self.counts)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean training loss, nats.
        lr: Learning rate at its end.
        accuracy: Main metric of each evaluation set: top-1 or mAP, per cent, or RMSE.
        seconds: Training time, evaluation left out.
        wait: Part of `seconds` spent waiting for the loader.
        forward: f, of all ranks.
        backward: b, of all ranks.
        metrics: All metrics of each evaluation set, by name, per cent or errors.
        classes: Main metric of each class or value of each set, None for one without rows; after the last epoch alone.
        sources: Of each of several catalogs, by name: its draws, and their mean loss and top-1 in training.
    """

    epoch: int
    loss: float
    lr: float
    accuracy: dict[str, float]
    seconds: float
    wait: float
    forward: int = 0
    backward: int = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    classes: dict[str, list[float | None]] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class SourceScores:
    """Draws, loss and top-1 of the sources of a joined catalog in the epoch under way, as the training sees them.

    Attributes:
        names: Of the sources.
        source: Of each row, int64 (rows,), on the device of the training.
        sums: Draws, losses and hits of each source, float64 (G, 3).
    """

    names: tuple[str, ...]
    source: Tensor
    sums: Tensor

    @classmethod
    def of(cls, catalog: Catalog, device: torch.device, /) -> "SourceScores | None":
        """Return the scores of a catalog's sources; None where it is one source."""
        if len(catalog.sources) == 1:
            return None
        source = torch.from_numpy(catalog.source.astype(np.int64)).to(device)
        return cls(catalog.sources, source, torch.zeros(len(catalog.sources), 3, dtype=torch.float64, device=device))

    def observe(self, ids: Tensor, logits: Tensor, labels: Tensor, weights: Tensor, /) -> None:
        """Count a batch; rows of weight 0 only fill up, and top-1 is of classes alone."""
        drawn = (weights > 0).double()
        found = [drawn, torch.zeros_like(drawn), torch.zeros_like(drawn)]
        if labels.ndim == 1 or labels.shape[1]:
            found[1] = drawn * label_losses(logits.float(), labels)
        if labels.ndim == 1:
            found[2] = drawn * (logits.argmax(1) == labels)
        self.sums.index_add_(0, self.source[ids], torch.stack(found, 1))

    def take(self, ranks: Ranks, /) -> dict[str, dict[str, float]]:
        """End the epoch: the scores of all ranks by name (a collective call); per cent, and nats."""
        sums = ranks.total(self.sums).tolist()
        self.sums.zero_()
        mean = [(int(drawn), loss / max(drawn, 1), 100 * hits / max(drawn, 1)) for drawn, loss, hits in sums]
        return {
            name: {"draws": n, "loss": loss, "top1": top1}
            for name, (n, loss, top1) in zip(self.names, mean, strict=True)
        }


class EpochUnderWay:
    """Sums of the epoch under way on this rank; as a part of a checkpoint those of all ranks.

    Attributes:
        epoch: Its number; -1 between epochs.
        at: Steps done.
        work: Rows that went forward and backward, and how often each was trained on.
        total: Sum of the losses of this rank's rows, float32 ().
        count: Rows of all ranks, fill left out.
        wait: Seconds spent waiting for the loader.
        seconds: Seconds of training.
        sources: Scores of the sources of a joined catalog.
    """

    def __init__(self, rows: int, sources: SourceScores | None, ranks: Ranks, device: torch.device, /) -> None:
        self._rows, self._ranks, self._device, self.sources = rows, ranks, device, sources
        self.epoch = -1
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.at, self.count, self.wait, self.seconds = 0, 0, 0.0, 0.0
        self.work = Work(torch.zeros(self._rows, dtype=torch.int64, device=self._device))
        self.total = torch.zeros((), device=self._device)

    def begin(self, epoch: int, /) -> None:
        """Go on with an epoch, or begin it."""
        if epoch != self.epoch:
            self.clear()
            self.epoch = epoch

    def end(self) -> float:
        """Join the ranks (a collective call); return the mean loss. The sums stay until the next epoch."""
        self.work.reduce(self._ranks)
        self.epoch = -1
        return float(self._ranks.total(self.total)) / max(self.count, 1)

    def state_dict(self) -> dict[str, Any]:
        """Counts of all ranks, and the sums of floats of each (a collective call); empty between epochs."""
        if self.epoch < 0:
            return {}
        work = Work(self.work.counts.clone(), self.work.forward, self.work.backward)
        work.reduce(self._ranks)
        own = [self.total.cpu(), None if self.sources is None else self.sources.sums.cpu()]
        return {
            **{name: getattr(self, name) for name in ("epoch", "at", "count", "wait", "seconds")},
            "counts": work.counts.cpu(),
            "work": [work.forward, work.backward],
            "ranks": self._ranks.collect(own),
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on in an epoch: counts in rank 0; sums of floats where they were, or of another number of ranks in it."""
        if not state:
            return
        for name in ("epoch", "at", "count", "wait", "seconds"):
            setattr(self, name, state[name])
        first, parts = self._ranks.writes, state["ranks"]
        self.work.counts.copy_(state["counts"] * first)
        self.work.forward, self.work.backward = (int(each) * first for each in state["work"])
        totals, sources = zip(*parts, strict=True)
        if len(parts) == self._ranks.world_size:
            mine = slice(self._ranks.rank, self._ranks.rank + 1)
        else:
            mine = slice(None if first else len(parts), None)
        self.total.copy_(sum(totals[mine], torch.zeros(())))
        if self.sources is not None:
            self.sources.sums.copy_(sum(sources[mine], torch.zeros(self.sources.sums.shape, dtype=torch.float64)))


@dataclass(slots=True)
class Run:
    """A training run so far, and the weights at its best epoch on the set `select`.

    Attributes:
        history: Its epochs.
        best_epoch: Number of the best one; -1 where nothing was selected.
        best_state: Weights after it.
        counts: c over all epochs.
    """

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best_state: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def seconds(self) -> float:
        """Training time of all epochs, evaluation left out."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def wait_share(self) -> float:
        """Share of the training time spent waiting for the loader."""
        return sum(epoch.wait for epoch in self.history) / max(self.seconds, 1e-9)

    @property
    def forward(self) -> int:
        """Rows that went forward, f."""
        return sum(epoch.forward for epoch in self.history)

    @property
    def backward(self) -> int:
        """Rows that went backward, b."""
        return sum(epoch.backward for epoch in self.history)

    @property
    def count_entropy(self) -> float:
        """H(c), nats: log N where every row was trained on equally often; 0 where none was."""
        return entropy(self.counts.cpu().numpy()) if bool(self.counts.any()) else 0.0

    def effective_budget(self, full: int, /, *, before: int = 0) -> float:
        """B̂ against a full run of N T rows; `before` rows went forward before the first epoch."""
        return (self.forward + before + 2 * self.backward) / (3 * full)

    def last(self, name: str, metric: str | None = None) -> float:
        """A metric of a set after the last epoch, by default the main one."""
        last = self.history[-1]
        return last.accuracy[name] if metric is None else last.metrics[name][metric]

    def best(self, name: str) -> float:
        """Main metric of a set at the best epoch: early stopping by the set `select`."""
        return self.history[self.best_epoch].accuracy[name]
