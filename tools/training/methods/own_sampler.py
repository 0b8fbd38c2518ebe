"""A row sampler of the user's own in the reference loop.

    class Rare:                                   # mine.py; drawstream train … --sampler mine:Rare
        def __init__(self, labels): self.weights = 1 / np.bincount(labels)[labels]
        def probabilities(self, epoch): return self.weights

It is asked for weights once per epoch. One that learns has four methods more (`methods.Learner`): `observe` each batch,
`reduce` at the end of an epoch, `state_dict` and `load_state_dict` for checkpoints.
"""

import re
from collections.abc import Mapping
from typing import Any

from drawstream.features.named import accepted, load_factory, users_code
from drawstream.samplers import IndexStream, RowSampler
from drawstream.tools.training.methods.methods import Learner, Method, Plan

LEARNS = ("observe", "reduce", "state_dict", "load_state_dict")


def is_own(name: str, /) -> bool:
    """Whether a name is `module:factory`, not a file's or a method's."""
    return re.fullmatch(r"[\w.]+:\w+", name) is not None


def own_plan(name: str, epochs: int, offered: Mapping[str, Any], /, *, draws: int, mode: str, seed: int) -> Plan:
    """The run of a sampler that a user names.

    Args:
        name: `module:factory`; it is called with those of the offered keywords that it takes.
        epochs: T.
        offered: `rows` (N), `labels` int64 (N,), `epochs`, `seed`, `table` (a feature table, or None).
        draws: Of an epoch.
        mode: Of the stream: stratified, multinomial or subset.
        seed: Of the stream.

    Raises:
        ValueError: It cannot be imported or called, lacks methods, or gives weights of another number of rows.
    """
    factory = load_factory("--sampler", name)
    taken = accepted(factory, offered)
    if offered.get("table") is not None and "table" not in taken:
        raise ValueError(f"--table goes with a sampler that takes `table`, but {name} does not: leave it out")
    try:
        with users_code(f"--sampler {name} cannot be made"):
            sampler = factory(**taken)
    except TypeError as error:
        raise ValueError(
            f"--sampler {name}: {error}: it is called with those of {', '.join(offered)} that it takes"
        ) from None
    if not isinstance(sampler, RowSampler):
        raise ValueError(f"--sampler {name}: {type(sampler).__name__} has no method probabilities(epoch)")
    missing = [each for each in LEARNS if not callable(getattr(sampler, each, None))]
    if 0 < len(missing) < len(LEARNS):
        raise ValueError(
            f"--sampler {name}: one that learns has {', '.join(LEARNS)}, but {', '.join(missing)} is missing"
        )
    try:
        stream = IndexStream(sampler, mode=mode, draws=draws, seed=seed)
    except TypeError as error:
        raise ValueError(f"--sampler {name}: what probabilities(epoch) gives: {error}") from None
    if stream.rows != offered["rows"]:
        raise ValueError(
            f"--sampler {name}: it gives weights of {stream.rows} rows, but the catalog has {offered['rows']}"
        )
    learner: Learner | None = None if missing else sampler  # type: ignore[assignment]
    return Plan(stream, epochs, Method(learner))
