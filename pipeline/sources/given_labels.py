"""Labels as data sets and tables give them: names or numbers, brought to a kind with its class names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.labels import Kind, as_kind, broken_law, kind_of, no_labels, value_names
from drawstream.pipeline.shards import number_names


def number_labels(
    values: Any, rows: int, kind: Kind | None, given: Sequence[str], name: str, /
) -> tuple[NDArray[Any], tuple[str, ...], str]:
    """Return labels as they are kept, the class names, and a line where the kind was guessed.

    Args:
        values: One for each of `rows`: class names, or numbers as `as_kind` takes them; of none nothing is read.
        rows: Their number.
        kind: What they are; None: what their type says.
        given: Names of the classes, where they are known.
        name: Of the source, for messages.

    Raises:
        ValueError: They are of no kind, or outside of the classes.
    """
    try:
        if kind == "none":
            return no_labels(rows), (), ""
        lists = (each for each in values if isinstance(each, list | tuple)) if isinstance(values, list) else ()
        if any(isinstance(text, str) for each in lists for text in each):
            law = "a label must be a name or a number, but some are lists of texts"
            raise ValueError(f"{law}: take captions as a field (--label-kind none --fields …)")
        array = np.asarray(values)
        if array.dtype.kind in "US":
            names, array = np.unique(array, return_inverse=True)
            if given and (others := sorted(set(names.tolist()) - set(given))):
                raise ValueError(f"label {others[0]!r} is none of the classes {', '.join(given[:3])}, …")
            known = list(given) or names.tolist()
            array = np.array([known.index(each) for each in names.tolist()])[array]
            given = known
        labels, note = as_kind(array, kind)
        classes = tuple(given) or names_of(labels)
        if kind_of(labels) == "class" and (unlabelled := int((labels == -1).sum())):
            law = f"{unlabelled} of {len(labels)} rows have the label -1, as rows without a label do"
            raise ValueError(f"{law}: leave them out, or take all without labels (--label-kind none)")
        if law := broken_law(labels, classes):
            raise ValueError(law)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return labels, classes, f"{name}: {note}" if note else ""


def names_of(labels: NDArray[Any], /) -> tuple[str, ...]:
    """Return names of classes or values that have none."""
    if kind_of(labels) == "value":
        return value_names(labels.shape[1])
    return number_names(int(labels.max()) if labels.ndim == 1 else labels.shape[1] - 1, len(labels))
