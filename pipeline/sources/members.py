"""Fields of a source: members that are packed beside an image, such as its caption, mask or boxes."""

from drawstream.pipeline.decoding import UPRIGHT, Largest
from drawstream.pipeline.fields import check_fields, decode_value, move_field
from drawstream.pipeline.sources.source import Source

Sizes = tuple[tuple[int, int], tuple[int, int]]
_TAKEN = ("cls", "clean.cls", "label.npy", "jpg", "png", "webp", "pgm", "ppm")  # members that `pack` writes


def field_names(source: Source, /) -> tuple[str, ...]:
    """Return the names of the fields that a source has: its ``fields``, none without.

    Raises:
        ValueError: A name that cannot be, or that the image or the label of a packed sample may have.
    """
    names = check_fields(tuple(getattr(source, "fields", ())))
    if taken := [name for name in names if name in _TAKEN]:
        law = f"{source.name}: field .{taken[0]} would have the name of an image or a label"
        raise ValueError(f"{law}: give it another, such as seg.png")
    return names


def read_fields(
    source: Source,
    row: int,
    names: tuple[str, ...],
    sizes: Sizes | None = None,
    boxes: str | None = None,
    turned: int = UPRIGHT,
    /,
) -> dict[str, bytes]:
    """Read the fields that a row has, by name; the source gives bytes, or None where it has none.

    Masks and boxes of an image that is stored smaller or turned follow it, see ``move_field``; ``sizes`` are its sizes
    before and after, ``turned`` the EXIF orientation by which its pixels were turned.

    Raises:
        ValueError: One that the system refuses, or that ``decode_value`` cannot read.
    """
    found: dict[str, bytes] = {}
    for name in names:
        data = source.read_field(row, name)  # type: ignore[attr-defined]
        if data is not None:
            decode_value(name, data)
            found[name] = data if sizes is None else move_field(name, data, *sizes, boxes=boxes, turned=turned)
    return found


def check_boxes(source: Source, boxes: str | None, largest: Largest, encoding: str, /) -> None:
    """Refuse a field of boxes that would not be scaled or turned.

    Raises:
        ValueError: The source has no such field, or images are stored as they are.
    """
    if boxes is None:
        return
    if largest.side is None and encoding == "keep":
        law = f"boxes ({boxes!r}) are changed only where images are stored smaller"
        raise ValueError(f"{law}: leave them out (--boxes)")
    if (name := boxes.partition(":")[0]) not in (names := field_names(source)):
        there = f"its fields are {', '.join(names)}" if names else "it has none"
        raise ValueError(f"{source.name}: has no field {name!r} with boxes, {there}: name it (--fields, --boxes)")
