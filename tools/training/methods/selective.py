"""Batch selectors in the training loop: they choose which of the rows that the loader gives are trained on.

Notation
    G, f   rows of a training step over all ranks; factor of the selector
    at     steps of the epoch so far, of as many as `length` says: what the learning rate follows

The selector's scores come either from a forward pass of their own (`before`: selective backprop, RHO-loss, DLIS while
it is on) or from the training pass (ordered SGD, DLIS while it is off). A scoring pass is made in evaluation mode,
without gradient, and on images that are not mixed yet; where a mixer is given, on mixed ones, by their mixed labels,
and the chosen ones are trained on as they were mixed. What it takes:

    f = 1   a batch of the loader is scored; its chosen rows wait until there are G, which are then a step; what is left
            at the end of an epoch is a last step, of fewer rows
    f > 1   f batches of the loader are scored one after another, and the choice among all of them is a step

All ranks gather the scores of the global batch and decide alike. A rank trains on those of the chosen rows that it
holds, few or many; one that holds none takes part with a row of weight 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features import label_losses, measure, require_classes
from drawstream.pipeline import Batch, to_device
from drawstream.pipeline.images import RICAP, Mixed, Mixup
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.methods import BatchSelector, OrderedSGD
from drawstream.tools.training import Amp, Ranks, Work, autocast
from drawstream.tools.training.checkpoints import AsTensors

Places = NDArray[np.int64]
Rows = dict[str, Tensor]  # fields of a batch, (n, …) each; beside them `targets` and `shares` (n, k) of mixed images


class Step(NamedTuple):
    """Next step of the training loop.

    Attributes:
        batch: Rows of this rank; weight 0 marks those without a part in the gradient.
        waited: Seconds of waiting for the loader.
        at: See the module.
        rows: Rows of the step over all ranks, fill left out.
        chosen: Whether the selector has spoken, and the weights are its own.
        mixed: The images with their labels, if they were mixed before they were scored.
    """

    batch: Batch
    waited: float
    at: int
    rows: int
    chosen: bool = False
    mixed: Mixed | None = None


class _Scored(NamedTuple):
    """A batch of this rank, and what all ranks know of the global one: score, id and reality of each row."""

    rows: Rows
    table: NDArray[np.float64]


class _Choice(NamedTuple):
    """The chosen rows of a group of global batches, (k,) each: factors of their losses, and where they are."""

    weights: NDArray[np.float32]
    ranks: Places
    batches: Places
    places: Places


class Chooser:
    """A selector at work on a model."""

    def __init__(
        self,
        selector: BatchSelector,
        model: nn.Module,
        catalog: Catalog,
        ranks: Ranks,
        /,
        *,
        global_batch: int,
        amp: Amp = "off",
        mix: Mixup | RICAP | None = None,
    ) -> None:
        """Prepare the choice; `global_batch` is G, and `mix` mixes a batch of the loader before it is scored."""
        self.selector = selector
        self._model, self._catalog, self._ranks, self._amp = model, catalog, ranks, amp
        self._global_batch, self._mix = global_batch, mix
        self._device = next(model.parameters()).device
        self._right = torch.zeros((), dtype=torch.float64, device=self._device)  # rows of this rank
        self._variance: Tensor | None = None  # of the labels of kind value
        self._seen = 0  # rows of all ranks
        self._taken = self._at = 0  # batches of the loader, and steps, of the epoch so far
        self._waiting: list[Rows] = []  # chosen rows of this rank that fill no step yet
        self._owners: Places = np.empty(0, np.int64)  # the ranks of all chosen ones
        self._spare: Rows = {}  # a row of this rank

    def __repr__(self) -> str:
        return type(self.selector).__name__

    def length(self, batches: int, /) -> int:
        """Steps of an epoch for which the loader has so many batches; with f = 1 the most that there can be."""
        return -(-batches // self.selector.factor)

    def steps(
        self, given: Iterable[tuple[Batch, float, int]], work: Work, /, *, epoch: int, batches: int
    ) -> Iterator[Step]:
        """The steps of an epoch, or of what is left of it.

        Args:
            given: Batches of the loader, with the seconds that each was waited for, and its rows over all ranks.
            work: Counts the rows that are scored.
            epoch: Number of the epoch.
            batches: How many there are in the whole epoch.
        """
        group: list[_Scored] = []
        waited, length, source = 0.0, self.length(batches), iter(given)
        while True:
            while (step := self._due(waited, last=self._taken == batches or self.selector.factor > 1)) is not None:
                yield step
                waited = 0.0
            if self._at == length or (taken := next(source, None)) is None:
                return
            batch, seconds, count = taken
            waited += seconds
            self._taken += 1
            if not self.selector.before:
                self._at += 1
                yield Step(batch, waited, self._at - 1, count)
                waited = 0.0
                continue
            group.append(self._score(self._mixed(batch, epoch, self._taken - 1), work))
            if len(group) == self.selector.factor or self._taken == batches:
                chosen, owners = self._choose(group, epoch, self._at)
                self._waiting, self._owners = [*self._waiting, chosen], np.concatenate([self._owners, owners])
                self._at, self._spare, group = self._at + 1, _part(group[-1].rows, 0, 1), []

    def _due(self, waited: float, *, last: bool) -> Step | None:
        """The next step of the chosen rows, if they fill one or are the last."""
        if not self._owners.size or (self._owners.size < self._global_batch and not last):
            return None
        rows = _joined(self._waiting)
        due, self._owners = np.split(self._owners, [self._global_batch])
        mine = int((due == self._ranks.rank).sum())
        self._waiting = [_part(rows, mine, None)]
        spare = self._spare | {"weights": torch.zeros_like(self._spare["weights"])}  # takes part, and changes nothing
        return _step(_part(rows, 0, mine) if mine else spare, waited, self._at - 1, due.size)

    def judge(self, step: Step, logits: Tensor, losses: Tensor, /, *, epoch: int) -> tuple[Tensor, int] | None:
        """Weights (n,) of the rows of a training pass by its own scores, and how many rows of all ranks have one.

        None: all rows count alike.
        """
        batch = step.batch
        logits, rows = logits.detach(), _fields(batch)
        if isinstance(self.selector, OrderedSGD):
            right = self._rightness(logits, batch.labels)
            self._right += (right if self._ranks.world_size == 1 else right * (batch.weights > 0)).sum()
        scores = losses.detach() if self.selector.scores == "loss" else _scores(logits, rows, self.selector.scores)
        if self._ranks.world_size == 1:  # all rows are here, and there is no fill
            self._seen += len(batch.ids)
            given = (each.numpy(force=True) for each in (scores, batch.ids))
            places, factors = self.selector.select(next(given), epoch=epoch, step=step.at, ids=next(given))
            if len(places) == len(batch.ids) and (factors == 1).all():
                return None
            rows_chosen = len(places)
        else:
            table = self._table(rows, scores)
            self._seen += int(table[:, 2].sum())
            choice = self._select([_Scored(rows, table)], epoch, step.at)
            mine = choice.ranks == self._ranks.rank
            places, factors, rows_chosen = choice.places[mine], choice.weights[mine], len(mine)
        weights = np.zeros(len(batch.ids), np.float32)
        weights[places] = factors
        return to_device(weights, self._device), rows_chosen

    def _rightness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return of each row whether its class, or all of several, is right; of values the share of variance explained.

        The last is 1 − squared error / variance over the catalog, mean over the values, (n,), below 0 too.
        """
        kind = self._catalog.label_kind
        if kind == "class":
            return logits.argmax(1) == labels
        if kind == "multi":
            return torch.eq(logits > 0, labels > 0).all(1)
        if self._variance is None:
            self._variance = torch.from_numpy(self._catalog.label.var(axis=0, dtype=np.float64)).to(self._device)
        varies = self._variance > 0
        error = (logits.double() - labels)[:, varies].square() / self._variance[varies]
        return 1 - error.mean(1) if bool(varies.any()) else torch.zeros_like(error.sum(1))

    def end_epoch(self) -> None:
        """Tell ordered SGD the accuracy of the epoch's training passes (a collective call)."""
        if isinstance(self.selector, OrderedSGD):
            right = float(self._ranks.total(self._right))
            self.selector.set_accuracy(min(100.0, max(0.0, 100 * right / max(self._seen, 1))))
            self._right, self._seen = torch.zeros_like(self._right), 0
        self._taken = self._at = 0

    def state_dict(self) -> dict[str, Any]:
        """State of the selector, and the chosen rows that wait, of all ranks (a collective call)."""
        found = {"selector": AsTensors(self.selector).state_dict(), "seen": self._seen}
        found |= {"right": float(self._ranks.total(self._right.clone())), "taken": self._taken, "at": self._at}
        if not self._owners.size:
            return found
        own = [{k: v.cpu() for k, v in rows.items()} for rows in (_joined(self._waiting), self._spare)]
        return found | {"owners": self._owners.tolist(), "rows": self._ranks.collect(own)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state.

        Raises:
            ValueError: The state is of another selector.
        """
        AsTensors(self.selector).load_state_dict(state["selector"])
        self._seen, self._taken, self._at = state["seen"], state["taken"], state["at"]
        self._right.fill_(state["right"] if self._ranks.writes else 0)
        if "owners" in state:
            self._divide(np.array(state["owners"], np.int64), state["rows"])

    def _divide(self, owners: Places, parts: list[list[Rows]]) -> None:
        """Take this rank's part of the rows that wait; of another number of ranks all are divided anew."""
        ranks, rank = self._ranks.world_size, self._ranks.rank
        waiting, spares = zip(*parts, strict=True)
        if len(parts) == ranks:
            mine, spare = waiting[rank], spares[rank]
        else:
            order = np.argsort(np.argsort(owners, kind="stable"), kind="stable")  # place of each in the parts as one
            owners, spare = np.arange(owners.size) % ranks, spares[0]
            mine = {k: v[torch.from_numpy(order[owners == rank])] for k, v in _joined(list(waiting)).items()}
        self._waiting = [{k: v.to(self._device) for k, v in mine.items()}]
        self._owners, self._spare = owners, {k: v.to(self._device) for k, v in spare.items()}

    def _mixed(self, batch: Batch, epoch: int, number: int) -> Rows:
        """Rows of a batch of the loader, mixed if they are to be."""
        rows = _fields(batch)
        if self._mix is None:
            return rows
        mixed = self._mix(batch.images, batch.labels, epoch=epoch, step=number, rank=self._ranks.rank)
        return rows | {"images": mixed.images, "targets": mixed.labels, "shares": mixed.shares}

    @torch.no_grad()
    def _score(self, rows: Rows, work: Work) -> _Scored:
        """Score a batch by a forward pass of its own."""
        self._model.eval()
        with autocast(self._device, self._amp):
            logits = self._model(rows["images"])
        self._model.train()
        require_classes(logits, self._catalog)
        work.forward += len(rows["ids"])
        return _Scored(rows, self._table(rows, _scores(logits, rows, self.selector.scores)))

    def _table(self, rows: Rows, scores: Tensor) -> NDArray[np.float64]:
        """Score, id (exact below 2^53) and reality of the rows of the global batch, (n · ranks, 3); fill is last."""
        mine = torch.stack([scores.double(), rows["ids"].double(), (rows["weights"] > 0).double()], 1)
        if self._ranks.world_size > 1:
            everyone = mine.new_empty(len(mine) * self._ranks.world_size, 3)
            dist.all_gather_into_tensor(everyone, mine)
            mine = everyone
        return mine.cpu().numpy()

    def _select(self, group: list[_Scored], epoch: int, at: int) -> _Choice:
        table = group[0].table if len(group) == 1 else np.concatenate([scored.table for scored in group])
        real = table[: int(table[:, 2].sum())]
        chosen = self.selector.select(real[:, 0], epoch=epoch, step=at, ids=real[:, 1].astype(np.int64))
        if len(table) == len(group[0].rows["ids"]):  # one batch of one rank
            none = np.zeros_like(chosen.indices)
            return _Choice(chosen.weights, none, none, chosen.indices)
        ends = np.cumsum([len(scored.table) for scored in group])
        batches = np.searchsorted(ends, chosen.indices, side="right")
        sizes = np.array([len(scored.rows["ids"]) for scored in group])
        within = chosen.indices - (ends - np.diff(ends, prepend=0))[batches]
        ranks, places = np.divmod(within, sizes[batches])
        return _Choice(chosen.weights, ranks, batches, places)

    def _choose(self, group: list[_Scored], epoch: int, at: int) -> tuple[Rows, Places]:
        """The chosen rows that this rank holds, and the ranks of all of them."""
        choice = self._select(group, epoch, at)
        parts = []
        for number, scored in enumerate(group):
            mine = (choice.ranks == self._ranks.rank) & (choice.batches == number)
            places, weights = (to_device(each[mine], self._device) for each in (choice.places, choice.weights))
            parts.append({name: value[places] for name, value in scored.rows.items()} | {"weights": weights})
        return _joined(parts), choice.ranks


def _scores(logits: Tensor, rows: Rows, name: str) -> Tensor:
    """Losses, or norms of the gradient over the logits, float32 (n,)."""
    logits, mixed = logits.float(), "targets" in rows
    if name == "loss":
        if mixed:
            return Mixed(rows["images"], rows["targets"], rows["shares"]).loss(logits, reduction="none")
        return label_losses(logits, rows["labels"])
    if rows["labels"].ndim == 2:
        return measure(logits, rows["labels"], None, ("grad_norm",))["grad_norm"]
    targets = rows["targets"] if mixed else rows["labels"][:, None]
    shares = rows["shares"] if mixed else torch.ones_like(targets, dtype=torch.float32)
    norms: Tensor = torch.linalg.vector_norm(logits.softmax(1).scatter_add_(1, targets, -shares), dim=1)
    return norms


def _fields(batch: Batch) -> Rows:
    return {"images": batch.images, "labels": batch.labels, "ids": batch.ids, "weights": batch.weights}


def _step(rows: Rows, waited: float, at: int, count: int) -> Step:
    """A step of chosen rows."""
    batch = Batch(rows["images"], rows["labels"], rows["ids"], rows["weights"])
    mixed = Mixed(batch.images, rows["targets"], rows["shares"]) if "targets" in rows else None
    return Step(batch, waited, at, count, chosen=True, mixed=mixed)


def _joined(parts: list[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _part(rows: Rows, a: int, b: int | None) -> Rows:
    return {name: value[a:b] for name, value in rows.items()}
