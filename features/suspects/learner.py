"""P(clean) within a training: the tracker's averages so far, refitted every few epochs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from drawstream.features import Tracker
from drawstream.features.suspects.clean import clean_probabilities
from drawstream.features.suspects.find import FEW_WRONG, suspects_of, wrong_labels
from drawstream.samplers import whole_number
from drawstream.samplers.methods import check_array, check_identity

__all__ = ["CleanSampler"]

_FORMAT = 1


class CleanSampler:
    """Draws rows by the probability that their label is right, as a training that is under way tells it.

        >>> sampler = CleanSampler(catalog.label, classes=10, refresh=3)
        >>> loader = Loader(catalog, IndexStream(sampler, seed=0), batch_size=128)

    In the loop: `sampler.observe(ids, logits, labels, weights)` after each forward pass, `sampler.reduce()` after each
    epoch. Draws are uniform until the first refit, and after one that finds fewer than 3 % of the labels wrong. The
    share of wrong labels is that of the last refit behind uniform draws: rows that are rarely drawn keep early
    predictions, which later thresholds would pass over. Rows never seen are drawn as the others on average.

    Under `torch.distributed` each rank observes its own batches and all call `reduce`: every rank then draws as one
    process would that saw all batches. Memory: a `Tracker` with `classes`, 8 bytes per row, 8 per pair of classes.

    Args:
        labels: int (rows,), given classes.
        classes: Number of classes, that of the logits; None: as many as the labels name.
        refresh: Epochs between refits; the first is after so many.
        score: `margin` or `loss`, averaged over the visits so far.
        per_class: Fit a mixture to each class, see `clean_probabilities`.

    Attributes:
        tracker: What it has seen; `tracker.export` writes its table.
        refits: Of each refit `epochs` before it, `wrong_share`, `interval`, and whether it is `uniform`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        labels: ArrayLike,
        /,
        classes: int | None = None,
        *,
        refresh: int = 3,
        score: Literal["margin", "loss"] = "margin",
        per_class: bool = False,
    ) -> None:
        self._labels = np.asarray(labels, np.int64)
        if self._labels.ndim != 1 or not self._labels.size or self._labels.min() < 0:
            raise ValueError(
                f"labels must be classes (rows,) from 0, but got {self._labels.dtype} {self._labels.shape}"
            )
        self.classes = int(self._labels.max()) + 1 if classes is None else classes
        if not 2 <= self.classes < 1 << 16 or self._labels.max() >= self.classes:
            law = "labels must be of 2 to 65535 classes, all below that number"
            raise ValueError(f"{law}, but got {self.classes} classes and labels to {self._labels.max()}")
        self.rows, self.refresh = self._labels.size, whole_number(refresh, "refresh")
        if self.refresh < 1:
            raise ValueError(f"refresh >= 1 must hold, but got {refresh}")
        if score not in ("margin", "loss"):
            raise ValueError(f"score must be margin or loss, but got {score!r}")
        self.score, self.per_class = score, bool(per_class)
        self.tracker = Tracker(self.rows, classes=self.classes)
        self.refits: list[dict[str, Any]] = []
        self._epochs, self._open = 0, False
        self._joint = np.empty((0, 0))  # of the last refit behind uniform draws, where it gave others
        self._p = np.full(self.rows, 1 / self.rows)

    def __repr__(self) -> str:
        return f"CleanSampler({self.rows} rows, {self._epochs} epochs, {len(self.refits)} refits)"

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:  # noqa: ARG002 - of the protocol
        """Return the probabilities of rows by the last refit, float64 (rows,), sum 1, whatever the epoch."""
        return self._p

    def observe(self, ids: Any, logits: Any, labels: Any, weights: Any = None, /) -> None:
        """Take note of a batch of this rank; it counts from `reduce` on.

        Args:
            ids: int64 (n,), in [0, rows); arrays or tensors, here and below.
            logits: float (n, classes), of the training forward pass.
            labels: int64 (n,).
            weights: float (n,); rows of weight 0 only fill up the batch.

        Raises:
            ValueError: As `Tracker.observe`.
        """
        self._begin()
        given = (ids, logits, labels, weights)
        self.tracker.observe(*(None if each is None else torch.as_tensor(each) for each in given))  # type: ignore[arg-type]

    def reduce(self, total: Any = None, /) -> None:  # noqa: ARG002 - of the protocol
        """End an epoch, a collective call under `torch.distributed`; `total` is not needed."""
        self._begin()
        self.tracker.reduce()
        self._epochs, self._open = self._epochs + 1, False
        if self._epochs % self.refresh == 0:
            self._refit()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state: numbers, texts and arrays; within an epoch each rank has its own."""
        tracked = self.tracker.state_dict()
        arrays = {f"tracker_{name}": value.numpy() for name, value in tracked["tensors"].items()}
        at = {"epochs": self._epochs, "open": self._open, "refits": [dict(each) for each in self.refits]}
        own = {"p": self._p.copy(), "joint": self._joint.copy()}
        return {**self._identity(), **at, **own, "tracker": tracked["meta"], **arrays}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was called: the same steps give the same draws.

        Raises:
            ValueError: The state is of another sampler (both sides are shown), or damaged.
        """
        check_identity(state, self._identity())
        p = check_array(state, "p", self._p).copy()
        joint = state.get("joint")
        joint = check_array(state, "joint", joint if isinstance(joint, np.ndarray) else self._joint)
        begin = "tracker_"
        tensors = {
            name.removeprefix(begin): torch.from_numpy(np.array(value))
            for name, value in state.items()
            if name.startswith(begin)
        }
        self.tracker.load_state_dict({"meta": state.get("tracker", {}), "tensors": tensors})
        self._p, self._epochs, self._open = p, int(state["epochs"]), bool(state["open"])
        self.refits, self._joint = [dict(each) for each in state["refits"]], joint.copy()

    def _begin(self) -> None:
        if not self._open:
            self.tracker.set_epoch(self._epochs)
            self._open = True

    def _refit(self) -> None:
        if not self.tracker._totals[:, -1].any():  # a source of a mixture that has no share yet
            return
        columns = self.tracker.columns()
        seen = columns["seen"] > 0
        kept, labels = {name: values[seen] for name, values in columns.items()}, self._labels[seen]
        told: dict[str, Any] = {"epochs": self._epochs, "rows": int(seen.sum())}
        if np.ptp(kept[self.score]) == 0:  # nothing tells rows apart
            self._p = np.full(self.rows, 1 / self.rows)
            self.refits.append(told | {"wrong_share": None, "interval": None, "uniform": True})
            return
        found = suspects_of(kept, labels, self.classes, method=self.score)
        if self._joint.size:
            last = self.refits[-1]
            share, interval = last["wrong_share"], (last["interval"][0], last["interval"][1])
            wrong = wrong_labels(found.odds, found.score, share)
            found = replace(found, joint=self._joint, share=share, interval=interval, wrong=wrong)
        elif found.share >= FEW_WRONG:
            self._joint = found.joint
        p = np.full(self.rows, 1 / len(labels))
        p[seen] = clean_probabilities(found, labels, per_class=self.per_class)
        self._p = p / p.sum()
        share = {"wrong_share": found.share, "interval": list(found.interval), "uniform": found.share < FEW_WRONG}
        self.refits.append(told | share)

    def _identity(self) -> dict[str, Any]:
        options = {"refresh": self.refresh, "score": self.score, "per_class": self.per_class}
        return {"format": _FORMAT, "sampler": "clean", "rows": self.rows, "classes": self.classes, **options}
