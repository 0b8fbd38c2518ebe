"""Draws of a mixture in a training: the plans of its sources as one, and what their samplers learn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from drawstream.samplers import derive_keys
from drawstream.samplers.orders import MixedStream
from drawstream.tools.training import Recipe, Setup
from drawstream.tools.training.methods.mixture_file import Mixture
from drawstream.tools.training.methods.plan import Learner, LoopParts, TrainingPlan


def source_setups(mixture: Mixture, setup: Setup, /) -> list[Setup]:
    """Return the setup of each source: its own rows, with the classes of the whole.

    Raises:
        ValueError: The data are not those of the mixture.
    """
    if len(setup.data.members) != len(mixture.sources):
        law = f"{mixture.path}: the mixture has {len(mixture.sources)} sources, but the data"
        raise ValueError(f"{law} has {len(setup.data.members)}: give no catalog beside --mixture")
    return [replace(setup, catalog=each.place, opened=setup.data.part(g)) for g, each in enumerate(setup.data.members)]


def source_recipe(recipe: Recipe, source: int, /) -> Recipe:
    """Return the recipe with the seed of a source, so that sources of as many rows have orders of their own."""
    return replace(recipe, seed=int(derive_keys(source + 1, "source", recipe.seed)[source]))


def mixed_plan(
    mixture: Mixture, plans: Sequence[TrainingPlan], setup: Setup, recipe: Recipe, /, *, factor: int = 1
) -> TrainingPlan:
    """Plan a training whose positions are shared among the plans of the sources.

    Raises:
        ValueError: A plan cannot be part of a mixture, or the shares do not fit.
    """
    for g, plan in enumerate(plans):
        parts = plan.parts
        if parts.selector is not None or parts.weighted or plan.epochs != recipe.epochs:
            where = mixture.source_name(g)
            law = "cannot be part of a mixture, as it chooses among a batch, weighs the loss or sets the epochs"
            raise ValueError(f"{where}: sampler {mixture.sources[g].sampler} {law}: give another one")
    single = mixture.batches == "single"
    try:
        stream = MixedStream(
            [plan.stream for plan in plans],
            [each.share for each in mixture.sources],  # type: ignore[misc]
            seed=recipe.seed,
            draws=None if mixture.draws is None else factor * mixture.draws,
            epochs=recipe.epochs,
            batches="single" if single else "mixed",
            global_batch=factor * setup.global_batch if single else None,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{mixture.path}: {error}") from None
    learners = {g: plan.parts.learner for g, plan in enumerate(plans) if plan.parts.learner is not None}
    learner = MixedLearner(learners, stream.offsets) if learners else None
    return TrainingPlan(stream, recipe.epochs, LoopParts(learner), sum(plan.forward for plan in plans))


class MixedLearner:
    """The samplers of a mixture's sources that learn, as one `Learner`.

    Args:
        learners: By number of the source.
        offsets: Row of each source's first row, and the rows of all, int64 (G + 1,).
    """

    def __init__(self, learners: Mapping[int, Learner], offsets: NDArray[np.int64], /) -> None:
        self.learners, self.offsets = dict(learners), offsets.tolist()

    def observe(self, ids: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None = None, /) -> None:
        """Record a batch: of each source its own rows."""
        for g, learner in self.learners.items():
            mine = (ids >= self.offsets[g]) & (ids < self.offsets[g + 1])
            own = None if weights is None else weights[mine]
            learner.observe(ids[mine] - self.offsets[g], logits[mine], labels[mine], own)

    def reduce(self, total: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None, /) -> None:
        """End an epoch, adding up over the ranks."""
        for learner in self.learners.values():
            learner.reduce(total)

    def state_dict(self) -> dict[str, Any]:
        """Return the learnt states, by source and name."""
        states = {g: learner.state_dict() for g, learner in self.learners.items()}
        return {f"{g}.{name}": value for g, state in states.items() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore the states."""
        for g, learner in self.learners.items():
            own = {name.partition(".")[2]: value for name, value in state.items() if name.partition(".")[0] == str(g)}
            learner.load_state_dict(own)
