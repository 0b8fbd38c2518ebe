"""A row sampler of the user's own in the reference loop.

    class Rare:                                   # mine.py; drawstream train … --sampler mine:Rare
        def __init__(self, labels): self.weights = 1 / np.bincount(labels)[labels]
        def probabilities(self, epoch): return self.weights

It is asked for weights once per epoch. One that learns has four methods more (`plan.Learner`): `observe` each batch,
`reduce` at the end of an epoch, `state_dict` and `load_state_dict` for checkpoints.
"""

from typing import Any

from drawstream.features import accepted, load_factory, users_code
from drawstream.samplers.orders import RowSampler
from drawstream.tools.training.methods.plan import Inputs, Learner, LoopParts, TrainingPlan

LEARNS = ("observe", "reduce", "state_dict", "load_state_dict")


def own_plan(inputs: Inputs, /) -> TrainingPlan:
    """Draw by a sampler that a user names as `module:factory`.

    The factory is called with those of these keywords that it takes: `rows` (N), `labels` int64 (N,), `epochs` (T),
    `seed`, `table` (a feature table, or None).

    Raises:
        ValueError: It cannot be imported or called, lacks methods, or gives weights of another number of rows.
    """
    option = f"--sampler {inputs.name}"
    offered: dict[str, Any] = {"rows": inputs.rows, "labels": inputs.labels(), "epochs": inputs.epochs}
    sampler = _made(inputs.name, offered | {"seed": inputs.seed, "table": inputs.table()})
    if not isinstance(sampler, RowSampler):
        raise ValueError(f"{option}: {type(sampler).__name__} has no method probabilities(epoch)")
    missing = [each for each in LEARNS if not callable(getattr(sampler, each, None))]
    if 0 < len(missing) < len(LEARNS):
        raise ValueError(f"{option}: one that learns has {', '.join(LEARNS)}, but {', '.join(missing)} is missing")
    try:
        stream = inputs.stream(inputs.balanced_sampler(sampler), mode=inputs.mode)
    except TypeError as error:
        raise ValueError(f"{option}: what probabilities(epoch) gives: {error}") from None
    if stream.rows != inputs.rows:
        raise ValueError(f"{option}: it gives weights of {stream.rows} rows, but the catalog has {inputs.rows}")
    learner: Learner | None = None if missing else sampler  # type: ignore[assignment]
    return TrainingPlan(stream, inputs.epochs, LoopParts(learner))


def _made(name: str, offered: dict[str, Any]) -> Any:
    """The user's sampler, made with the keywords that its factory takes."""
    factory = load_factory("--sampler", name)
    taken = accepted(factory, offered)
    if offered["table"] is not None and "table" not in taken:
        raise ValueError(f"--table goes with a sampler that takes `table`, but {name} does not: leave it out")
    try:
        with users_code(f"--sampler {name} cannot be made"):
            return factory(**taken)
    except TypeError as error:
        wanted = ", ".join(offered)
        raise ValueError(f"--sampler {name}: {error}: it is called with those of {wanted} that it takes") from None
