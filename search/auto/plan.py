"""Plan a population search: its checked settings, and the arithmetic of epochs, intervals and cycles.

Notation: see `drawstream.search.auto.search`.

    cycle 0                   cycle 1                    cycle 2 …
    epochs [0, first)         N_u + 1 epochs             N_u + 1 epochs, the last one maybe cut short by the end
    uniform permutations      P of the rows of cycle 0   P of the rows of cycle 1 (or of all so far)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

Exploration = Literal["uniform", "random", "mixture"]
Smoothing = Literal["log_count", "log_relative", "literal"]
Estimate = Literal["cycle", "run"]
Mode = Literal["multinomial", "stratified"]
STAGES = 3  # Fig. 2 and 4 of the paper: epochs 80, 160 and 240


class Cycle(NamedTuple):
    """Epochs [begin, end) whose orders come from one distribution."""

    number: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class PopulationPlan:
    """The settings of a search that decide its schedule.

    Attributes:
        rows: N, of the training set.
        population: N_p, children of all processes together; 1 with exploration `uniform`.
        batch_size: B.
        epochs: Of floor(N / B) batches each.
        exploration: `uniform` (plain training), `random` (exploitation only) or `mixture`.
        interval: N_s, batches between two evaluations; 20 in the paper.
        first: Epochs before the first exploration; 20 in the paper.
        permutations: N_u, full permutations in a cycle of N_u + 1 epochs; 3 in the paper.
        beta: Smoothing factor, at least 1.
        count_smoothing: Of the distribution, see `drawstream.search.auto.explore`.
        estimate: Rows counted for it: of the last `cycle` (Alg. 2), or of the whole `run`.
        mode: Of a child's draws from it: independent ones (`multinomial`, the paper), or `stratified`, whose children
            differ in little but the order.
        seed: Of all orders.

    Raises:
        ValueError: A setting is out of range, or there is no whole batch.
    """

    rows: int
    population: int
    batch_size: int
    epochs: int
    exploration: Exploration = "mixture"
    interval: int = 20
    first: int = 20
    permutations: int = 3
    beta: float = 1.0
    count_smoothing: Smoothing = "log_count"
    estimate: Estimate = "cycle"
    mode: Mode = "multinomial"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"population": 1, "batch_size": 1, "epochs": 1, "interval": 1, "first": 1, "permutations": 0}
        for name, low in limits.items():
            if getattr(self, name) < low:
                raise ValueError(f"`{name} >= {low}` must hold, but got {getattr(self, name)}")
        if self.rows < self.batch_size:
            raise ValueError(
                f"`rows >= batch_size` must hold, but got {self.rows} rows for batches of {self.batch_size}"
            )
        if not 1 <= self.beta < float("inf"):
            raise ValueError(f"`beta >= 1` must hold, or a logarithm is negative, but got {self.beta}")
        kinds = {"exploration": Exploration, "count_smoothing": Smoothing, "estimate": Estimate, "mode": Mode}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"`{name}` must be one of {known}, but got {getattr(self, name)!r}")
        if self.exploration == "uniform" and self.population != 1:
            raise ValueError(
                f"uniform exploration is plain training of one child, but got a population of {self.population}: "
                "give 1, or exploration random"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"0 <= seed < 2**64 must hold, but got {self.seed}")

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.rows // self.batch_size

    @property
    def draws(self) -> int:
        """Positions of an epoch: whole batches."""
        return self.steps * self.batch_size

    @property
    def intervals(self) -> int:
        """Intervals of an epoch."""
        return -(-self.steps // self.interval)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Positions [start, stop) of each interval of an epoch."""
        length = self.interval * self.batch_size
        for start in range(0, self.draws, length):
            yield start, min(start + length, self.draws)

    def cycle(self, epoch: int, /) -> Cycle:
        """The cycle that an epoch belongs to."""
        if self.exploration != "mixture" or epoch < self.first:
            return Cycle(0, 0, self.epochs if self.exploration != "mixture" else min(self.first, self.epochs))
        length = self.permutations + 1
        number = (epoch - self.first) // length
        begin = self.first + number * length
        return Cycle(number + 1, begin, min(begin + length, self.epochs))

    def stages(self) -> list[range]:
        """Return the epochs of each stage, about a third of the run; a stage ends where a cycle does."""
        mixture = self.exploration == "mixture"
        first, cycle = (self.first, self.permutations + 1) if mixture else (1, 1)
        return stage_epochs(self.epochs, first=first, cycle=cycle)


def stage_epochs(epochs: int, /, *, first: int = 1, cycle: int = 1) -> list[range]:
    """Return the epochs of each stage.

    Args:
        epochs: Number of epochs of the schedule.
        first: Epochs before the first exploration.
        cycle: Epochs of a cycle after that, N_u + 1; the last one may be shorter.
    """
    inner = range(first, epochs, cycle)
    thirds = [epochs * part / STAGES for part in range(1, STAGES)]
    cuts = {min(inner, key=lambda end: abs(end - third)) for third in thirds} if inner else set()
    return [range(a, b) for a, b in pairwise(sorted({0, *cuts, epochs}))]
