"""The tracker: averages per row of what training computes anyway, from ids and logits of its steps.

Notation
    visit     one row in one batch with a weight > 0; rows of weight 0 (fill of the last batch) do not count
    x         a measure of a visit (METHODS §1): loss, entropy, grad_norm of the logits, uncertainty 1 − p_y
    S         Σ x over visits in units of 2^-36, int64; every x is rounded to a unit (1.5e-11), at most 2^14 (`visits`)
    position  (step, rank, place in the batch) as one int64: the order of an epoch's visits
    correct   argmax z = y at a visit; of an epoch: at its last visit, by position

Integers add up the same in any order, so batches, ranks and restarts change no bit of S and of the means S / seen. What
does depend on order, forgetting (a row correct in one epoch and incorrect in the next one that visits it: Toneva et
al., ICLR 2019) and the moving average, goes by whole epochs: `reduce` ends one.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from drawstream.features.table import (
    FeatureTable,
    fixed_columns,
    part_path,
    read_provenance,
    remove_abandoned,
    require_same,
    write_part,
)
from drawstream.features.visits import (
    LEARNED,
    MASS_UNIT,
    Array,
    add_last,
    add_scaled,
    first_position,
    fold,
    fold_early,
    fold_others,
    measure_rows,
    note_other,
)
from drawstream.pipeline import HostCopies
from drawstream.pipeline.labels import Kind
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.methods import IGNORED, MEASURES, UNIT, add_visits

FORMAT = 3
EXACT = 64  # classes; of more the mean probabilities of two candidates are kept
_OF_RIGHT = ("forgetting", "learned", "right_since")  # columns that values, which are never right, do not have


class Tracker:
    """Follows every row through training; ends as a feature table that cost no pass over the data.

        >>> tracker = Tracker(len(catalog))
        >>> for epoch in range(90):
        ...     tracker.set_epoch(epoch)
        ...     for batch in loader:
        ...         logits = model(batch.images)
        ...         tracker.observe(batch.ids, logits, batch.labels, batch.weights)
        ...     tracker.reduce()
        >>> tracker.export("features-of-training", catalog)

    Under `torch.distributed` each rank observes its own batches, as many as the others, and `reduce` adds them up:
    every rank then holds the state of one process that saw the global batches.
    Memory: 99 bytes per row, 32 more with `decay`, 12 with `grand`; with `classes` C <= 64 another 16 C, with more 20.
    Logits on a GPU come over in asynchronous copies and are measured on the CPU; observing waits for the GPU only where
    it lags four batches behind.
    """

    def __init__(
        self,
        rows: int,
        /,
        *,
        classes: int = 0,
        kind: Kind = "class",
        since: int = 0,
        until: int | None = None,
        decay: float | None = None,
        early: int = 10,
        grand: bool = False,
    ) -> None:
        """Make a tracker that has seen nothing.

        Args:
            rows: Rows that ids number: samples of a catalog, or rows of a feature table.
            classes: Number of classes C, to keep the probability of every other class than the label; 0 keeps none. Up
                to 64 classes all are kept, exactly; of more two candidates per row, by their last visit in an epoch.
            kind: Of the labels: `class`, `multi` or `value`; the last two know no other class.
            since: First epoch that counts.
            until: First epoch that no longer counts; None counts all from `since` on.
            decay: None gives means over visits. A number in (0, 1) gives moving averages over epochs in their place:
                `decay` times what was, plus the rest times the mean of the epoch; the first visited epoch begins them.
            early: Epochs from `since` on whose visits make `el2n` and `grand` (Paul et al., NeurIPS 2021, take 10 to
                20 of 200).
            grand: Also keep the norm of the last layer's gradient; `observe` then takes that layer's inputs.

        Raises:
            ValueError: An argument is out of range.
        """
        if rows < 1:
            raise ValueError(f"`rows >= 1` must hold, but got {rows}")
        if since < 0 or (until is not None and until <= since):
            raise ValueError(f"`0 <= since < until` must hold, but got since {since} and until {until}")
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"`0 < decay < 1` must hold, but got {decay}: None gives plain means")
        if early < 1:
            raise ValueError(f"`early >= 1` must hold, but got {early}")
        if kind != "class" and classes:
            raise ValueError(f"labels of kind {kind} have no other class: leave `classes` out")
        if classes != named_classes(classes):
            raise ValueError(f"`classes` must be 0 or in [2, 65535], but got {classes}")
        self.rows, self.classes, self.since, self.until, self.decay = rows, classes, since, until, decay
        self.kind, self.early, self.grand = kind, early, grand
        self._kept = classes if classes <= EXACT else 0  # classes of which p is summed
        sketched = rows if classes > EXACT else 0
        width = len(MEASURES) + self._kept + 1
        self._sums = np.zeros((rows, width), np.int64)
        self._last = np.zeros(rows, np.int64)
        self._totals = np.zeros((rows, width), np.int64)
        self._forgotten = np.zeros(rows, np.int16)
        self._last_epoch = np.full(rows, -1, np.int16)
        self._el2n = np.full(rows, -1, np.float32)
        self._grand = np.full(rows if grand else 0, -1, np.float32)
        self._grand_sums = np.zeros(rows if grand else 0, np.int64)
        self._flags = np.zeros(rows, np.uint8)
        self._right_since = np.full(rows, -1, np.int16)
        self._averages = np.zeros((0 if decay is None else rows, len(MEASURES)))
        self._other = np.zeros(sketched, np.int64)
        self._named = np.zeros((sketched, 2), np.uint16)
        self._mass = np.zeros((sketched, 2), np.uint32)
        self._epoch, self._step, self._open, self._classes = -1, 0, False, 0
        self._copies = HostCopies()

    def __repr__(self) -> str:
        state = f"in epoch {self._epoch}" if self._open else f"{self._epoch + 1} epochs"
        return f"Tracker({self.rows} rows, {state})"

    def set_epoch(self, epoch: int, /) -> None:
        """Begin an epoch; the one under way may be named again, as after a restart within it.

        Raises:
            ValueError: The epoch before was not ended by `reduce`, or this one does not come after it.
        """
        if self._open and epoch == self._epoch:
            return
        if self._open:
            raise ValueError(
                f"epoch {self._epoch} is still open: call `reduce()` on every rank before `set_epoch({epoch})`"
            )
        if epoch <= self._epoch or epoch < 0:
            raise ValueError(f"epochs must rise, but {epoch} comes after {self._epoch}: restore the state before it")
        self._epoch, self._step, self._open = epoch, 0, True

    def observe(
        self,
        ids: Tensor,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        /,
        *,
        inputs: Tensor | None = None,
    ) -> None:
        """Take note of a batch of this rank; a row that comes twice in it is two visits, in that order.

        Args:
            ids: int64 (n,), in [0, rows).
            logits: float (n, C), of the training step's forward pass.
            labels: int64 (n,); of kind `multi` uint8 (n, C), of `value` float32 (n, C).
            weights: float (n,); rows of weight 0 do not count. Others count once, whatever their weight.
            inputs: float (n, D), of the last layer, whose bias is counted; only with `grand`.

        Raises:
            ValueError: No epoch is open, shapes do not fit, ids or labels are out of range, or logits are not finite;
                what a batch on a GPU holds is seen in a later call or in `reduce`.
        """
        if not self._open:
            raise ValueError("no epoch is open: call `set_epoch(epoch)` before the epoch's first batch")
        n = len(ids)
        one = self.kind == "class"
        fits = logits.ndim == 2 and ids.ndim == 1 and len(logits) == n and logits.shape[1] > one
        if not fits or labels.shape != (ids.shape if one else logits.shape):
            law = f"ids (n,), logits (n, C >= {1 + one}) and labels ({'n,' if one else 'n, C'}) must fit, but got"
            raise ValueError(f"{law} {tuple(ids.shape)}, {tuple(logits.shape)} and {tuple(labels.shape)}")
        if self.classes not in (0, logits.shape[1]):
            raise ValueError(f"logits of {logits.shape[1]} classes, but the tracker was made for {self.classes}")
        if self._classes not in (0, logits.shape[1]):
            raise ValueError(f"logits of {logits.shape[1]} classes, but the batches before had {self._classes}")
        if self.grand and (inputs is None or inputs.ndim != 2 or len(inputs) != n):
            shape = None if inputs is None else tuple(inputs.shape)
            raise ValueError(f"`grand` needs `inputs` (n, D) of the last layer, but got {shape} for {n} rows")
        if not self._counts:
            return
        self._classes = logits.shape[1]
        position = first_position(self._step, n)
        self._step += 1
        with torch.no_grad():
            kept = ids if weights is None else torch.where(weights > 0, ids, IGNORED)
            batch: tuple[Tensor, ...] = (kept, logits.detach().float(), labels)
            if inputs is not None and self._in_early:
                batch = (*batch, inputs.detach().float())
            self._copies.put(batch, partial(self._add, position))

    def reduce(self) -> None:
        """End the epoch: add up what all ranks observed (a collective call under `torch.distributed`).

        Raises:
            ValueError: No epoch is open, or a batch held an id out of range or logits that are not finite.
        """
        if not self._open:
            raise ValueError("no epoch is open: `reduce()` ends one that `set_epoch` began")
        self._copies.drain()
        if self._counts:
            self._classes = self._join(self._arrays(True))
        if self._other.size:
            fold_others(self._other, self._sums[:, -1], self._named, self._mass)
        if self._in_early:
            fold_early(self._sums, self._totals, self._grand_sums, self._el2n, self._grand)
        state = self._totals, self._forgotten, self._last_epoch, self._flags, self._right_since, self._averages
        fold(self._epoch, self._sums, self._last, *state, self.decay or 0.0)
        self._open = False

    def columns(self) -> dict[str, NDArray[np.float32]]:
        """Return the measures up to the last `reduce`, each float32 (rows,).

        Of kind `multi` a row is correct if all its classes are, and 1 − `uncertainty` is the mean over the classes of
        the probability of the right side; of `value` there are `loss`, `grad_norm` and what counts visits alone.

        `loss`, `entropy` (from 3 classes on), `grad_norm` (of the logits) and `uncertainty` are means over visits, or
        moving averages; a row never seen takes the largest value of the others, as in p-SGD (METHODS §4). `seen` counts
        visits. `forgetting` counts events; a row never learned, so also one never seen, has one more than any that
        was. `el2n` is the mean of `grad_norm` over the visits of the first `early` epochs, `grand` that of the norm
        over the last layer's weight and bias; a row not seen then has the largest. `learned` is 1 for a row that was
        correct in some epoch. `last_epoch` is -1 for a row never seen. `right_since` is the epoch since which a row is
        correct; others have one more than the last that counted.

        With `classes`, of the probabilities of classes but the label's, means over visits: `other` is the largest,
        `other_label` its class, `margin` = `other` − the label's own mean, in [-1, 1], high where another label is more
        probable; up to 64 classes `other_0` … are those of every class, 0 for the label's own. A row never seen has a
        margin of 0 and the other label -1.

        Raises:
            ValueError: An epoch is open, or no row was seen.
        """
        if self._open:
            raise ValueError(f"epoch {self._epoch} is still open: call `reduce()` first")
        visits = self._totals[:, -1]
        seen = visits > 0
        if not seen.any():
            raise ValueError(
                f"none of the {self.rows} rows was seen in epochs since {self.since} until {self.until}: train first"
            )
        columns = {}
        values = self.kind == "value"
        for k, name in enumerate(MEASURES):
            few = name == "entropy" and self.kind == "class" and self._classes < 3
            if few or (values and name in ("entropy", "uncertainty")):
                continue
            mean = self._totals[:, k] * UNIT / np.maximum(visits, 1) if self.decay is None else self._averages[:, k]
            columns[name] = np.where(seen, mean, mean[seen].max()).astype(np.float32)
        learned = (self._flags & LEARNED) > 0
        most = self._forgotten[learned].max(initial=0) + 1
        columns["seen"] = visits.astype(np.float32)
        columns["forgetting"] = np.where(learned, self._forgotten, most).astype(np.float32)
        columns["learned"] = learned.astype(np.float32)
        columns["last_epoch"] = self._last_epoch.astype(np.float32)
        for name, early in (("el2n", self._el2n), ("grand", self._grand)):
            if early.size and (early >= 0).any():  # none where the tracked epochs began later
                columns[name] = np.where(early >= 0, early, early.max())
        right = self._right_since >= 0
        columns["right_since"] = np.where(right, self._right_since, self._last_epoch.max() + 1).astype(np.float32)
        columns = {name: each for name, each in columns.items() if not (values and name in _OF_RIGHT)}
        return columns | self._others(seen)

    def _others(self, seen: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
        """Columns of the probabilities of classes but the label's."""
        if not self.classes:
            return {}
        visits = np.maximum(self._totals[:, -1], 1)
        mean = self._totals[:, len(MEASURES) : -1] * UNIT / visits[:, None]  # (rows, C), or (rows, 0)
        if self._kept:
            name, other = mean.argmax(1), mean.max(1)
        else:
            at = self._mass.argmax(1)[:, None]
            other = np.take_along_axis(self._mass, at, 1)[:, 0] * MASS_UNIT / visits
            name = np.take_along_axis(self._named, at, 1)[:, 0].astype(np.int64) - 1
        own = 1 - self._totals[:, MEASURES.index("uncertainty")] * UNIT / visits
        found = {"other": other, "other_label": np.where(seen, name, -1), "margin": np.where(seen, other - own, 0.0)}
        found |= {f"other_{c}": mean[:, c] for c in range(self._kept)}
        return {key: np.asarray(values, dtype=np.float32) for key, values in found.items()}

    def export(
        self,
        folder: str | os.PathLike[str],
        catalog: Catalog,
        /,
        *,
        rows: FeatureTable | None = None,
        model_name: str = "model",
    ) -> FeatureTable:
        """Write the columns as a feature table, one part per shard, rows in order.

        Args:
            folder: Made where missing; parts of the same state are written over.
            catalog: The samples.
            rows: The feature table whose rows were trained on, where ids are not samples (crops).
            model_name: How the model was named; part of the provenance.

        Raises:
            ValueError: As `columns`; or catalog, rows and tracker differ in length; or the folder holds another table.
        """
        columns = self.columns()
        count = len(catalog) if rows is None else len(rows)
        if count != self.rows:
            where = catalog.path if rows is None else rows.path
            raise ValueError(f"the tracker has {self.rows} rows, but {where} has {count}: track the ids of this one")
        if rows is not None:
            rows.check(catalog.fingerprint, str(catalog.path))
        catalog.require_labels(f"a tracker of kind {self.kind}", self.kind)
        fixed = fixed_columns(catalog, rows)
        digest = hashlib.blake2b(digest_size=16)
        for values in columns.values():
            digest.update(values.data)
        provenance = {
            "catalog": catalog.fingerprint,
            "parts": len(catalog.shards),
            "model": model_name,
            "grad_norm": "logit",
            "measures": list(columns),
            "rows": None if rows is None else rows.fingerprint,
            "tracker": {
                "classes": self.classes,
                "since": self.since,
                "until": self.until,
                "decay": self.decay,
                "early": self.early,
                "epochs": self._epoch + 1,
            },
            **({} if self.kind == "class" else {"label_kind": self.kind}),
            "values": digest.hexdigest(),
        }
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out)
        for part in out.glob("part-*.parquet"):
            require_same(read_provenance(part), provenance, part)
        bounds = [catalog.shard_rows(shard) for shard in range(len(catalog.shards))]
        for shard, bound in enumerate(bounds):
            start, stop = np.searchsorted(fixed["sample_id"], bound)
            arrays = {name: values[start:stop] for name, values in (fixed | columns).items()}
            write_part(part_path(out, shard), arrays, provenance)
        return FeatureTable.open(out)

    def state_dict(self, *, joined: bool = False) -> dict[str, Any]:
        """A copy of the state: `meta` (plain JSON) and `tensors`, which safetensors and `torch.save` take.

        Within an epoch each rank has visits of its own, and each must save and restore its state; after `reduce` the
        states of all ranks are equal, and that of rank 0 serves all.

        Args:
            joined: Add up what all ranks observed in the epoch under way (a collective call). One rank goes on with
                this state, the others with its tensors of the epoch (`sums`, `last`, `other`, `grand_sums`) at 0; there
                may be more or fewer ranks.
        """
        self._copies.drain()
        arrays = {name: array.copy() for name, array in self._arrays(self._open).items()}
        classes = self._join(arrays) if joined and self._open and self._counts else self._classes
        at = {"epoch": self._epoch, "step": self._step, "open": self._open, "classes": classes}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {"meta": {**self._identity(), **at}, "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was called: the same steps then give the same state, bit for bit.

        Raises:
            ValueError: The state is of a tracker of other rows, window or decay (both sides are shown), or damaged.
        """
        meta, tensors = state.get("meta", {}), state.get("tensors", {})
        for key, mine in self._identity().items():
            if meta.get(key) != mine:
                raise ValueError(f"this state is of another tracker: {key} {meta.get(key)!r}, but here it is {mine!r}")
        for name, array in self._arrays(bool(meta.get("open"))).items():
            found = tensors.get(name)
            expected = torch.from_numpy(array)
            if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
                shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else "missing"
                raise ValueError(f"the state's {name} is {shown}, not {expected.dtype} {array.shape}: it is damaged")
        self._copies.clear()
        self._epoch, self._step, self._classes = int(meta["epoch"]), int(meta["step"]), int(meta["classes"])
        self._open = bool(meta["open"])
        self._sums[:], self._last[:], self._other[:], self._grand_sums[:] = 0, 0, 0, 0
        for name, array in self._arrays(self._open).items():
            array[...] = tensors[name].cpu().numpy()

    @property
    def _counts(self) -> bool:
        """Whether the epoch lies in the window."""
        return self._epoch >= self.since and (self.until is None or self._epoch < self.until)

    @property
    def _in_early(self) -> bool:
        """Whether the epoch is one of the first that count."""
        return self._counts and self._epoch < self.since + self.early

    def _identity(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "rows": self.rows,
            "others": self.classes,
            "since": self.since,
            "until": self.until,
            "decay": self.decay,
            "early": self.early,
            "grand": self.grand,
            "kind": self.kind,
        }

    def _arrays(self, whole: bool, /) -> dict[str, Array]:
        """State by name; the epoch's own arrays are zero, and left out, while none is open."""
        kept: dict[str, Array] = {
            "totals": self._totals,
            "forgotten": self._forgotten,
            "last_epoch": self._last_epoch,
            "flags": self._flags,
            "right_since": self._right_since,
            "averages": self._averages,
            "el2n": self._el2n,
            "grand": self._grand,
            "named": self._named,
            "mass": self._mass,
        }
        if not whole:
            return kept
        grand = {"grand_sums": self._grand_sums}
        return {**kept, **grand, "sums": self._sums, "last": self._last, "other": self._other}

    def _join(self, arrays: Mapping[str, Array]) -> int:
        """Join an epoch's arrays of all ranks in place; return the number of classes that any of them has seen."""
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return self._classes
        last, other = arrays["last"], arrays["other"]
        _all_reduce(arrays["sums"], dist.ReduceOp.SUM)
        mine = last.copy() if other.size else last
        _all_reduce(last, dist.ReduceOp.MAX)
        if other.size:
            other[mine != last] = 0
            _all_reduce(other, dist.ReduceOp.SUM)
        if self.grand and self._in_early:
            _all_reduce(arrays["grand_sums"], dist.ReduceOp.SUM)
        seen = np.array([self._classes])
        _all_reduce(seen, dist.ReduceOp.MAX)
        return int(seen[0])

    def _add(self, position: int, *batch: Tensor) -> None:
        ids, z, y, *inputs = (value.cpu().contiguous().numpy() for value in batch)
        values = np.empty((len(MEASURES) + self._kept + 1, len(ids)))
        if fault := measure_rows(ids, z, y, self.rows, values, f"in epoch {self._epoch}"):
            raise ValueError(fault)
        add_visits(ids, values, self._sums)
        add_last(ids, values[-1], position, self._last)
        if self._other.size:
            note_other(ids, z, y, values[0], position, self._last, self._other)
        for h in inputs:
            add_scaled(ids, values[MEASURES.index("grad_norm")], h, self._grand_sums)


def named_classes(classes: int, /) -> int:
    """Return the number of classes, or 0 where a tracker cannot tell other classes: of one, or more than 65 535."""
    return classes if 2 <= classes < 1 << 16 else 0


def _all_reduce(array: Array, how: Any) -> None:
    """Reduce an array over the ranks in place, by way of the GPU where NCCL is the backend."""
    value = torch.from_numpy(array)
    on_device = value.cuda() if dist.get_backend() == "nccl" else value
    dist.all_reduce(on_device, op=how)
    if on_device is not value:
        value.copy_(on_device)
