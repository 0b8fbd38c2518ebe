"""Which members of a sample are its image and its label, and what the label says."""

import io
import json
import mmap
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import EXTENSIONS, ImageInfo, probe
from drawstream.pipeline.fields import check_fields
from drawstream.pipeline.labels import KINDS, PARSERS, EmptySampleError, Kind
from drawstream.pipeline.shards.names import shortened
from drawstream.pipeline.shards.tar import Sample
from drawstream.pipeline.sources import ENDINGS
from drawstream.samplers import DrawstreamError

_DAMAGE = (OSError, EOFError, ValueError, SyntaxError, TokenError)  # of a file of NumPy
LABELS = ("cls", "json", "txt")
KEYS = ("label", "cls")  # of a JSON object
CLEAN = "clean.cls"
MOST_LABEL = 1 << 20  # bytes of a label member: a number or name, or a JSON object that also holds captions
_CAPTION = re.compile(r"\s|[.!?,;。！？，、；]$|[,;，、；]|^.{65}")  # of a text: several words, a sentence


class UnreadableImageError(DrawstreamError):
    """A sample whose image a loader could not decode."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The members that are taken.

    Attributes:
        image: Extensions of the image member, without the first dot; by default those of ``EXTENSIONS``.
        label: Extension of the label member; with ``:PATH.TO.KEY`` behind it the member is JSON, and the label lies
            there; ``none``: samples have no labels. By default the first of ``LABELS`` that a sample has.
        skip_empty: Whether samples without image or label are left out.
        skip_bad: Whether samples whose image cannot be read are left out.
        fields: Extensions of further members to take, such as ``txt`` or ``seg.png``; none of them is the image.
        kind: Of the labels; None: ``class``.

    Raises:
        ValueError: An extension or a path that is empty, a field that is the image, or another kind.
    """

    image: tuple[str, ...] = ()
    label: str | None = None
    skip_empty: bool = False
    skip_bad: bool = False
    fields: tuple[str, ...] = ()
    kind: Kind | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"label_kind must be one of {', '.join(KINDS)}, but got {self.kind!r}")
        if self.kind == "none":
            object.__setattr__(self, "label", "none")
        image = tuple(each.strip().lstrip(".").lower() for each in self.image)
        if not all(image):
            raise ValueError(f"image must be an extension such as jpg or input.jpg, but got {', '.join(self.image)!r}")
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "fields", check_fields(self.fields))
        if both := [name for name in self.fields if name in image]:
            raise ValueError(f".{both[0]} cannot be both the image and a field: leave it out of one of them")
        if self.label is not None:
            extension, colon, path = self.label.strip().lstrip(".").partition(":")
            if not extension or (colon and not path):
                law = "label must be cls, txt, json, json:PATH.TO.KEY, none, or another extension"
                raise ValueError(f"{law}, but got {self.label!r}")
            object.__setattr__(self, "label", f"{extension.lower()}{colon}{path}")

    @property
    def labelled(self) -> bool:
        """Whether samples have labels."""
        return self.label != "none"

    @property
    def images(self) -> tuple[str, ...]:
        """Extensions of the image member."""
        return self.image or tuple(extension for extension in EXTENSIONS if extension not in self.fields)

    def as_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, for the provenance of a catalog."""
        image = {"image": list(self.image)} if self.image else {}
        label = {} if self.label is None else {"label": self.label}
        fields = {"fields": list(self.fields)} if self.fields else {}
        label |= {} if self.kind is None else {"label_kind": self.kind}
        return image | label | fields | {name: True for name in ("skip_empty", "skip_bad") if getattr(self, name)}

    @classmethod
    def of(cls, provenance: Mapping[str, Any], /) -> "Selection":
        """Read what ``as_json`` gave; the defaults where nothing of it is there."""
        image, label, fields, kind = (provenance.get(name) for name in ("image", "label", "fields", "label_kind"))
        given = tuple(map(str, image)) if isinstance(image, list) else ()
        empty, bad = (provenance.get(name) is True for name in ("skip_empty", "skip_bad"))
        further = tuple(map(str, fields)) if isinstance(fields, list) else ()
        known = kind if kind in KINDS else None
        return cls(given, label if isinstance(label, str) else None, empty, bad, further, known)

    def image_extension(self, sample: Sample, /) -> str:
        """Return the extension of a sample's image member.

        Raises:
            EmptySampleError: It has none, or an empty one.
            UnreadableImageError: It has one of a format that loaders do not decode.
            ValueError: It has several.
        """
        found = [extension for extension in sample.members if extension in self.images]
        law = f"must have one image (.{', .'.join(self.images)}), but got .{', .'.join(found or sample.members)}"
        if len(found) > 1:
            raise ValueError(f"{law}: choose one with --image {found[0]}")
        if not found:
            others = [each for each in sample.members if f".{each.rpartition('.')[2]}" in ENDINGS]
            known = next((each for each in others if each.rpartition(".")[2] in EXTENSIONS), None)
            if others and not known and not self.image:
                raise UnreadableImageError(f"{law}, which loaders do not decode")
            inner = "unpack it and index the tars in it, or " if "tar" in sample.members else ""
            choice = f"choose it with --image {known}, or " if known else inner
            raise EmptySampleError(f"{law}: {choice}leave such samples out (--skip-empty)")
        if sample.members[found[0]].size == 0:
            raise EmptySampleError(f".{found[0]} is empty: copy the shard again, or leave it out (--skip-empty)")
        return found[0]

    def image_of(self, sample: Sample, data: mmap.mmap, /, *, rule: str = "exif") -> tuple[int, bytes, ImageInfo]:
        """Read the image of a sample: its place, its bytes, what ``probe`` says; errors as ``image_extension``."""
        member = sample.members[self.image_extension(sample)]
        image = data[member.offset : member.offset + member.size]
        try:
            return member.offset, image, probe(image, rule=rule)
        except ValueError as error:
            raise UnreadableImageError(str(error)) from None

    def fields_of(self, sample: Sample, data: mmap.mmap, /) -> list[tuple[int, bytes] | None]:
        """Read the fields of a sample: place and bytes of each, or None where it has no such member."""
        found = [sample.members.get(name) for name in self.fields]
        return [None if each is None else (each.offset, data[each.offset : each.offset + each.size]) for each in found]

    def label_extension(self, sample: Sample, /) -> str:
        """Return the extension of a sample's label member; ``EmptySampleError`` where it has none."""
        wanted = LABELS if self.label is None else (self.label.partition(":")[0],)
        found = next((extension for extension in wanted if extension in sample.members), None)
        if found is not None:
            return found
        law = f"must have a label (.{', .'.join(wanted)}), but got .{', .'.join(sample.members)}"
        others = [each for each in sample.members if each not in EXTENSIONS]
        choice = f"choose its source with --label {others[0]}" if others else "give labels (.cls)"
        raise EmptySampleError(f"{law}: {choice}, index without labels (--label none), or leave it out (--skip-empty)")

    def label_of(self, sample: Sample, data: mmap.mmap, /) -> Any:
        """Read the label of a sample as its kind has it: of ``class`` a number or a name.

        Raises:
            EmptySampleError: It has none, or an empty one.
            ValueError: It has none that can be read.
        """
        extension = self.label_extension(sample)
        label = read_label(sample, extension, data, path=(self.label or "").partition(":")[2], kind=self.kind)
        if self.label is None and extension == "txt" and isinstance(label, str) and _CAPTION.search(label):
            law = f".txt looks like a caption and no class ({shortened(label[:60])})"
            raise ValueError(f"{law}: --label txt takes it as a class name, --label none indexes without labels")
        return label

    def leaves_out(self, sample: Sample, data: mmap.mmap, /) -> bool:
        """Whether a sample is left out: it has no image or no label, or its image cannot be read."""
        try:
            self.image_extension(sample)
            if self.labelled:
                self.label_of(sample, data)
                self.clean_of(sample, data)
            if self.skip_bad:
                self.image_of(sample, data)
        except EmptySampleError:
            return self.skip_empty
        except UnreadableImageError:
            return self.skip_bad
        except ValueError:
            pass
        return False

    def clean_of(self, sample: Sample, data: mmap.mmap, /) -> Any:
        """Read the class before noise; None where a sample has none. Errors as ``label_of``."""
        given = self.labelled and self.kind in (None, "class") and CLEAN in sample.members
        return read_label(sample, CLEAN, data) if given else None

    def contradiction(self, sample: Sample, label: Any, data: mmap.mmap, /) -> str | None:
        """Return another source that names another label of the same kind, where none was chosen."""
        found = [(extension, "") for extension in LABELS if extension in sample.members][1:]
        keys = [("json", KEYS[1])] if "json" in sample.members else []  # an object may have both keys
        for extension, key in {None: found + keys, "json": keys}.get(self.label, []):
            try:
                other = read_label(sample, extension, data, path=key)
            except ValueError:  # no label: a caption, or other metadata
                continue
            if type(other) is type(label) and other != label:
                return f"{extension}:{key}" if key else extension
        return None


BY_DEFAULT = Selection()


def read_label(sample: Sample, extension: str, data: mmap.mmap, /, *, path: str = "", kind: Kind | None = None) -> Any:
    """Read the label in one member as its kind has it, by default a class number or name.

    ``path`` holds the keys that lead to it in JSON, with dots between them; without, a member ``json`` holds it itself
    or is an object with one of ``KEYS``.

    Raises:
        EmptySampleError: Nothing there.
        ValueError: Nothing that can be a label.
    """
    member = sample.members[extension]
    if member.size > MOST_LABEL:
        raise ValueError(f".{extension} must have at most {MOST_LABEL} bytes, but has {member.size}: repair it")
    raw = data[member.offset : member.offset + member.size]
    parse = PARSERS[kind or "class"]
    if extension.rpartition(".")[2] == "npy":
        return parse(_array(raw, extension), f".{extension}", raw)
    structured = bool(path) or extension.rpartition(".")[2] == "json"
    try:
        text = raw.decode("utf-8-sig")  # a byte-order mark is no part of a name
        value = json.loads(text) if structured and text.strip() else text
    except (ValueError, RecursionError):  # covers bad UTF-8, bad JSON, and JSON that is nested too deep
        raise ValueError(f".{extension} is not readable: {raw[:40]!r}: repair it") from None
    where = f".{extension}"
    if structured and text.strip():
        value, where = _at(value, path.split(".") if path else [], extension)
    return parse(value, where, raw)


def _array(raw: bytes, extension: str) -> NDArray[Any]:
    """Read an array of numbers (columns,), or a single number."""
    try:
        array: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    except _DAMAGE as error:
        reason = (str(error) or "empty").splitlines()[0]
        raise ValueError(f".{extension} is not a readable array ({reason}): write it by np.save") from None
    if array.dtype.kind not in "iubf" or array.ndim > 1:
        law = f".{extension} must hold numbers (columns,)"
        raise ValueError(f"{law}, but got {array.dtype} {array.shape}: choose another source with --label")
    return array


def _at(value: Any, keys: list[str], extension: str) -> tuple[Any, str]:
    """Follow keys into a JSON value; without keys, one of ``KEYS`` of an object."""
    where = f".{extension}"
    if not keys and isinstance(value, dict):
        key = next((key for key in KEYS if key in value), None)
        if key is None:
            some = [name for name in value if re.search("class|label|target|categor|cls", name, re.IGNORECASE)]
            remedy = f"name another with --label {extension}:{some[0] if some else 'KEY'}, or --label none"
            law = f"{where} must hold a class number or name, or an object with {' or '.join(KEYS)}"
            raise ValueError(f"{law}, but its keys are {_listed(value)}: {remedy}")
        return value[key], f"{key!r} in {where}"
    while keys:
        if isinstance(value, dict) and ".".join(keys) in value:  # a key that has dots itself
            return value[".".join(keys)], f"{'.'.join(keys)!r} in {where}"
        key, *keys = keys
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            got = f"its keys are {_listed(value)}" if isinstance(value, dict) else f"there is {shortened(repr(value))}"
            raise EmptySampleError(f"{where} must have a key {shortened(key)}, but {got}: name another with --label")
        where = f"{key!r} in {where}"
    return value, where


def _listed(keys: Collection[str]) -> str:
    shown = ", ".join(shortened(key) for key in list(keys)[:12])
    return f"{shown}{', …' if len(keys) > 12 else ''}" if keys else "none"
