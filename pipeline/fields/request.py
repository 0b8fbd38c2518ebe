"""The fields that a loader is asked for, and their values from the bytes of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import SIDEWAYS
from drawstream.pipeline.fields.boxes import Placement, parse_boxes, place_boxes
from drawstream.pipeline.fields.columns import ABSENT, check_fields
from drawstream.pipeline.fields.masks import no_mask, plain_mask
from drawstream.pipeline.fields.values import decode_texts, decode_value, follow, is_text

if TYPE_CHECKING:
    from drawstream.pipeline.images import Transform
    from drawstream.pipeline.shards import Catalog


_Part = memoryview | None  # a member of a sample, if it has one
_REPAIR = "repair it, or let the loader replace such samples, Reading(on_bad='substitute')"  # `verify` finds none
_NO_PNG = ("txt", "json", "npy", "cls", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "pgm", "ppm")


@dataclass(frozen=True, slots=True)
class FieldRequest:
    """Fields that a loader is asked for.

    Attributes:
        fields: Those that are given as they are decoded.
        mask: One that follows the geometry of its image, as class numbers.
        boxes: One that follows the geometry of its image; ``json:PATH.TO.KEY``: what lies there in a JSON field.
    """

    fields: tuple[str, ...] = ()
    mask: str | None = None
    boxes: str | None = None

    @classmethod
    def of(cls, fields: Sequence[str], mask: str | None, boxes: str | None, /) -> "FieldRequest":
        """Check names and bring them into the form of a catalog's.

        Raises:
            ValueError: A name that cannot be, that is asked for twice, or whose members hold no mask or boxes.
        """
        if isinstance(fields, str):
            raise ValueError(f"`fields` must be a sequence of names, but got {fields!r}: give ({fields!r},)")
        found = check_fields(fields)
        (mask,) = check_fields([mask]) if mask is not None else (None,)
        if boxes is not None:
            name, colon, path = boxes.partition(":")
            boxes = f"{check_fields([name])[0]}{colon}{path}"
        _check_endings(mask, boxes)
        if mask is not None and mask in found:
            raise ValueError(f"{mask!r} is asked for as the mask and as a field: leave it out of `fields`")
        if boxes in found:
            raise ValueError(f"{boxes!r} is asked for as boxes and as a field: leave it out of `fields`")
        return cls(found, mask, boxes)

    @property
    def members(self) -> tuple[str, ...]:
        """The members to read, each once."""
        boxes = None if self.boxes is None else self.boxes.partition(":")[0]
        return tuple(dict.fromkeys(name for name in (*self.fields, self.mask, boxes) if name is not None))

    def check(self, catalog: "Catalog", transform: "Transform | None", /) -> None:
        """Refuse fields that a catalog does not have, and operations that masks and boxes cannot follow.

        Raises:
            ValueError: One of these.
        """
        for name in self.members:
            if name not in catalog.fields:
                there = f"its fields are {', '.join(catalog.fields)}" if catalog.fields else "it has no fields"
                raise ValueError(f"{catalog.path} has no field {name!r}, {there}: index it with --fields {name}")
        if (self.mask or self.boxes) and transform and transform.randaugment:
            what = "mask" if self.mask else "boxes"
            law = "RandAugment turns, shears and moves images, which masks and boxes cannot follow"
            raise ValueError(f"{law}: leave out `randaugment`, or `{what}`")


def _check_endings(mask: str | None, boxes: str | None) -> None:
    """Refuse masks and boxes whose names say that they are something else."""
    if mask is not None and mask.rpartition(".")[2] in _NO_PNG:
        law = f"a mask is a PNG of class numbers, but mask={mask!r} names"
        raise ValueError(f"{law} members .{mask}: name the field of the masks, such as seg.png, or leave it out")
    if boxes is None:
        return
    name, colon, path = boxes.partition(":")
    kind = name.rpartition(".")[2]
    if kind not in ("npy", "json"):
        law = f"boxes are arrays or JSON, but boxes={boxes!r} names members .{name}"
        raise ValueError(f"{law}: give a field such as boxes.npy, or json:PATH.TO.KEY")
    if colon and (kind == "npy" or not path):
        law = "an array has no keys" if kind == "npy" else "no key stands behind the colon"
        raise ValueError(f"boxes={boxes!r}: {law}: give {name!r}{'' if path else ', or json:PATH.TO.KEY'}")


@dataclass(slots=True)
class FieldValues:
    """Values of a run of n samples.

    Attributes:
        values: Of each field n values, None where a sample has none.
        inputs: Of the graph: the masks and their divisors.
        unmasked: int64 (m,), the samples without a mask.
        boxes: n times float64 (k, 4) as stored, or None; empty where none are asked for.
        problems: Samples whose fields cannot be used, why, and a remedy where it is not to leave them out.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    unmasked: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    boxes: list[NDArray[np.float64] | None] = field(default_factory=list)
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)

    def each(self, parts: Sequence[_Part], read: Callable[[int, memoryview], Any], option: str = "", /) -> list[Any]:
        """Read the members that are there; faults become problems, perhaps of a loader's `option`."""
        values: list[Any] = [None] * len(parts)
        failed: dict[int, str] = {}
        for i, part in enumerate(parts):
            if part is not None:
                try:
                    values[i] = read(i, part)
                except ValueError as error:
                    failed[i] = str(error)
        whole = 1 < len(failed) == sum(part is not None for part in parts)
        remedy = f"no sample of its batch has one there: name another field or key ({option})" if whole else _REPAIR
        self.problems |= {i: (why, remedy if option else "") for i, why in failed.items()}
        return values


def _without(values: list[Any], absent: Sequence[int]) -> list[Any]:
    """Put None in some places."""
    for i in absent:
        values[i] = None
    return values


class FieldReader:
    """Makes values of the bytes of fields."""

    def __init__(self, catalog: "Catalog", request: FieldRequest, size: tuple[int, int], /) -> None:
        self.request = request
        self._catalog, self._size = catalog, size

    def decode(self, samples: NDArray[np.int64], bounds: NDArray[np.int64], data: NDArray[np.uint8], /) -> FieldValues:
        """Decode what was read of samples (n,).

        Member m of sample i is `data[bounds[m n + i] : bounds[m n + i + 1]]`; member 0 is the image, the others are
        those of the request.
        """
        found, request, n = FieldValues(), self.request, len(samples)
        for m, name in enumerate(request.members, 1):
            ends = bounds[m * n : (m + 1) * n + 1]
            absent = self._absent(name, samples, ends)
            if is_text(name) and (texts := decode_texts(data, ends)) is not None:
                found.values[name] = _without(texts, absent)
                continue
            parts = _without([data.data[a:b] for a, b in pairwise(ends.tolist())], absent)
            if name in request.fields:
                found.values[name] = found.each(parts, lambda _, part, name=name: decode_value(name, part))  # type: ignore[misc]
            if request.boxes is not None and name == request.boxes.partition(":")[0]:
                found.boxes.extend(found.each(parts, lambda _, part: self._boxes(part), f"boxes={request.boxes!r}"))
            if name == request.mask:
                self._masks(samples, parts, found)
        return found

    def placed(self, found: FieldValues, placement: Placement | None, /) -> dict[str, Any]:
        """Return the fields of a run as a batch gives them, but for the masks; lists of n values."""
        if self.request.boxes is None:
            return found.values
        assert placement is not None
        return {**found.values, self.request.boxes: place_boxes(found.boxes, placement, self._size)}

    def _boxes(self, part: memoryview) -> NDArray[np.float64] | None:
        assert self.request.boxes is not None
        name, _, path = self.request.boxes.partition(":")
        value = decode_value(name, part)
        try:
            value = follow(value, path) if path else value
            return None if value is None else parse_boxes(value)
        except ValueError as error:
            raise ValueError(f".{name}: {error}") from None

    def _absent(self, name: str, samples: NDArray[np.int64], ends: NDArray[np.int64]) -> list[int]:
        """Return which of the samples have no such member: some of those of no bytes."""
        empty = np.flatnonzero(ends[1:] == ends[:-1])
        offset = self._catalog.field_columns[name].offset
        return empty[offset[samples[empty]] == ABSENT].tolist() if len(empty) else []

    def _masks(self, samples: NDArray[np.int64], parts: Sequence[_Part], found: FieldValues) -> None:
        """Add the inputs of the graph for masks."""
        catalog, name = self._catalog, self.request.mask
        sizes = np.stack([catalog.height[samples], catalog.width[samples]], axis=1)
        if catalog.turn is not None:
            sideways = catalog.turn[samples] >= SIDEWAYS
            sizes[sideways] = sizes[sideways, ::-1]
        stored = sizes.tolist()

        def read(i: int, part: memoryview) -> tuple[NDArray[np.uint8], int]:
            try:
                return plain_mask(part, *stored[i])
            except ValueError as error:
                raise ValueError(f"mask .{name} {error}") from None

        masks = found.each(parts, read, f"mask={name!r}")
        missing = [i for i, mask in enumerate(masks) if mask is None]
        for i in missing:
            masks[i] = no_mask(*stored[i]), 1
        found.inputs["mask"] = [mask for mask, _ in masks]
        found.inputs["mask_divisor"] = np.array([divisor for _, divisor in masks], np.int32)
        found.unmasked = np.array(missing, np.int64)
