"""Classes of a long tail by the number of their training images: many-shot, medium-shot and few-shot.

Notation
    n_c    training images of class c
    many   n_c > 100;  few  n_c < 20;  medium  the others (Liu et al., CVPR 2019, §5.1)
Where one of these groups would be empty, as in small sets, the classes are parted into thirds by n_c instead: the
largest ⌊C / 3⌋ are many, the smallest ⌊C / 3⌋ few. Classes that hardly differ (n_max < 2 n_min) have no groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEW, MANY = 20, 100
SKEW = 2  # n_max / n_min from which on classes are grouped

__all__ = ["FEW", "MANY", "ShotGroups"]


@dataclass(frozen=True, slots=True)
class ShotGroups:
    """The groups of some classes.

    Attributes:
        members: Class numbers by group, `many`, `medium` and `few`; none is empty unless bounds were given.
        rows: n_c of every class.
        bounds: `few` and `many`, images; None: thirds.
    """

    members: Mapping[str, tuple[int, ...]]
    rows: tuple[int, ...]
    bounds: tuple[int, int] | None

    @classmethod
    def of(cls, counts: ArrayLike, bounds: tuple[int, int] | None = None, /) -> "ShotGroups | None":
        """Group classes; None where they hardly differ, or are fewer than 3.

        Args:
            counts: n_c, int (C,); a class without images is in no group.
            bounds: Fewest images of a medium class, and most; by default 20 and 100, or thirds.

        Raises:
            ValueError: Not 1 <= few <= many.
        """
        rows: NDArray[np.int64] = np.asarray(counts, np.int64)
        there = np.flatnonzero(rows)
        if bounds is not None:
            if not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(f"shots must be FEW,MANY with 1 <= few <= many, but got {bounds[0]},{bounds[1]}")
            return cls(_by_bounds(rows, there, bounds), tuple(rows.tolist()), bounds)
        if len(there) < 3 or rows[there].max() < SKEW * rows[there].min():
            return None
        usual = _by_bounds(rows, there, (FEW, MANY))
        if all(usual.values()):
            return cls(usual, tuple(rows.tolist()), (FEW, MANY))
        order, third = there[np.argsort(-rows[there], kind="stable")], len(there) // 3
        parts = {"many": order[:third], "medium": order[third : len(order) - third], "few": order[len(order) - third :]}
        members = {name: tuple(sorted(part.tolist())) for name, part in parts.items()}
        return cls(members, tuple(rows.tolist()), None)

    def accuracies(self, classes: Sequence[float | None], /) -> dict[str, float | None]:
        """Return the mean accuracy of each group's classes, per cent; None for one without a class that was tested."""
        found = {
            name: [value for each in part if (value := classes[each]) is not None]
            for name, part in self.members.items()
        }
        return {name: float(np.mean(values)) if values else None for name, values in found.items()}

    def described(self, name: str, /) -> str:
        """Return a group's law: `many: 3 classes of 1796 to 5000 images`."""
        sizes = [self.rows[each] for each in self.members[name]]
        span = f" of {min(sizes)} to {max(sizes)} images" if sizes else ""
        return f"{name}: {len(sizes)} class{'' if len(sizes) == 1 else 'es'}{span}"

    @property
    def rule(self) -> str:
        """Return how the groups were made, a phrase."""
        if self.bounds is None:
            return "thirds of the classes by their number of training images"
        few, many = self.bounds
        return f"many: more than {many} training images, few: fewer than {few}"

    def as_dict(self, classes: Sequence[float | None], /) -> dict[str, Any]:
        """Return bounds, classes and accuracies as a record keeps them."""
        members = {name: list(part) for name, part in self.members.items()}
        bounds = None if self.bounds is None else list(self.bounds)
        return {"rule": self.rule, "bounds": bounds, "classes": members, "accuracy": self.accuracies(classes)}


def _by_bounds(
    rows: NDArray[np.int64], there: NDArray[np.int64], bounds: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    few, many = bounds
    mine = rows[there]
    parts = {"many": mine > many, "medium": (mine >= few) & (mine <= many), "few": mine < few}
    return {name: tuple(there[part].tolist()) for name, part in parts.items()}
