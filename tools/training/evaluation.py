"""When a training is evaluated, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from drawstream.pipeline import Loader


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When a training is evaluated, and on what.

    Attributes:
        sets: Loaders of held-out sets by name; top-1 is taken on each. The first one decides the best epoch.
        every: Evaluate after each `every`-th epoch, and after the last.
    """

    sets: Mapping[str, Loader] = field(default_factory=dict)
    every: int = 1

    @property
    def select(self) -> str | None:
        """Name of the set that decides the best epoch."""
        return next(iter(self.sets), None)


NO_EVALUATION = Evaluation()
