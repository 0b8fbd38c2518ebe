"""Which members of a sample are its image and its label, and what the label says."""

import json
import mmap
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from drawstream.pipeline.decoding import EXTENSIONS, ImageInfo, probe
from drawstream.pipeline.fields import check_fields
from drawstream.pipeline.shards.names import check_name, shortened
from drawstream.pipeline.shards.tar import Sample
from drawstream.pipeline.sources import ENDINGS
from drawstream.samplers import DrawstreamError

Label = int | str
LABELS = ("cls", "json", "txt")
KEYS = ("label", "cls")  # of a JSON object
CLEAN = "clean.cls"
MOST_LABEL = 1 << 20  # bytes of a label member: a number or name, or a JSON object that also holds captions
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_LAW = "must hold a class number or name"
_REMEDY = "give one whole number or a name, choose another source with --label, or index without labels (--label none)"
_CAPTION = re.compile(r"\s|[.!?,;。！？，、；]$|[,;，、；]|^.{65}")  # of a text: several words, a sentence
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?%?|0[xX][0-9a-fA-F]+")
_BETWEEN = re.compile(r"[\s,;:/|()]+")  # numbers of a list, a tuple, a ratio, a time
_MISSING = re.compile(r"(?i:[+-]?nan|none|null|nil|undefined|n/a|<na>)|NA|NaT")
_VALUE = re.compile(  # JSON, or what a program prints
    r"(?i:true|false|[+-]?inf(inity)?)|\[.*\]|\{.*\}|[bru]{0,2}([\"']).*\2|(tensor|array|(np|numpy)\.\w+)\(.*\)"
)


class EmptySampleError(DrawstreamError):
    """A sample that has no image, or no label."""


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

    Raises:
        ValueError: An extension or a path that is empty, or a field that is the image.
    """

    image: tuple[str, ...] = ()
    label: str | None = None
    skip_empty: bool = False
    skip_bad: bool = False
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
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
        return image | label | fields | {name: True for name in ("skip_empty", "skip_bad") if getattr(self, name)}

    @classmethod
    def of(cls, provenance: Mapping[str, Any], /) -> "Selection":
        """Read what ``as_json`` gave; the defaults where nothing of it is there."""
        image, label, fields = (provenance.get(name) for name in ("image", "label", "fields"))
        given = tuple(map(str, image)) if isinstance(image, list) else ()
        skipped = {name: provenance.get(name) is True for name in ("skip_empty", "skip_bad")}
        further = tuple(map(str, fields)) if isinstance(fields, list) else ()
        return cls(given, label if isinstance(label, str) else None, fields=further, **skipped)

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

    def label_of(self, sample: Sample, data: mmap.mmap, /) -> Label:
        """Read the label of a sample: a class number, or a name.

        Raises:
            EmptySampleError: It has none, or an empty one.
            ValueError: It has none that can be read.
        """
        extension = self.label_extension(sample)
        label = read_label(sample, extension, data, path=(self.label or "").partition(":")[2])
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

    def clean_of(self, sample: Sample, data: mmap.mmap, /) -> Label | None:
        """Read the label before noise; None where a sample has none. Errors as ``label_of``."""
        return read_label(sample, CLEAN, data) if self.labelled and CLEAN in sample.members else None

    def contradiction(self, sample: Sample, label: Label, data: mmap.mmap, /) -> str | None:
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


def read_label(sample: Sample, extension: str, data: mmap.mmap, /, *, path: str = "") -> Label:
    """Read the label in one member: a class number or name.

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
    structured = bool(path) or extension.rpartition(".")[2] == "json"
    try:
        text = raw.decode("utf-8-sig")  # a byte-order mark is no part of a name
        value = json.loads(text) if structured and text.strip() else text
    except (ValueError, RecursionError):  # covers bad UTF-8, bad JSON, and JSON that is nested too deep
        raise ValueError(f".{extension} is not readable: {raw[:40]!r}: repair it") from None
    where = f".{extension}"
    if structured and text.strip():
        value, where = _at(value, path.split(".") if path else [], extension)
    return as_label(value, where, raw)


def _at(value: Any, keys: list[str], extension: str) -> tuple[Any, str]:
    """Follow keys into a JSON value; without keys, one of ``KEYS`` of an object."""
    where = f".{extension}"
    if not keys and isinstance(value, dict):
        key = next((key for key in KEYS if key in value), None)
        if key is None:
            some = [name for name in value if re.search("class|label|target|categor|cls", name, re.IGNORECASE)]
            remedy = f"name another with --label {extension}:{some[0] if some else 'KEY'}, or --label none"
            law = f"{where} {_LAW}, or an object with {' or '.join(KEYS)}"
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


def as_label(value: Any, where: str, raw: bytes) -> Label:
    """Return a class number or name.

    Raises:
        EmptySampleError: Nothing there, or a missing value.
        ValueError: Neither a number nor a name.
    """
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "":
        raise EmptySampleError(f"{where} {_LAW}, but got {raw[:40]!r}: repair it, or leave it out (--skip-empty)")
    if value != value or (isinstance(value, str) and _MISSING.fullmatch(value)):  # NaN
        got = repr(value) if isinstance(value, str) else "NaN"
        remedy = "repair it (a class of that name needs another one), or leave such samples out (--skip-empty)"
        raise EmptySampleError(f"{where} {_LAW}, but got {got}, a missing value: {remedy}")
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where} {_LAW}, but got {json.dumps(value)[:60]}: {_REMEDY}")
    if isinstance(value, str):
        parts = [part for part in _BETWEEN.split(value) if part]
        if "\n" in value or _VALUE.fullmatch(value) or (parts and all(map(_NUMBER.fullmatch, parts))):
            raise ValueError(f"{where} {_LAW}, but got {shortened(value[:60])}: {_REMEDY}")
        check_name(value, what=where, remedy="repair it, or choose another source with --label")
        return value
    if value < 0:
        law = f"{where}: class numbers must be at least 0, but got {str(value)[:40]}"
        raise ValueError(f"{law}: number the classes from 0, or index without labels (--label none)")
    if value >= 1 << 63:
        raise ValueError(f"{where} must be a class number below 2⁶³, but got {str(value)[:40]}: repair it")
    return value
