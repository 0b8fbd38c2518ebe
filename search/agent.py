"""The agent that proposes candidates, as a sampler of Optuna.

A proposal is a function of (seed, number of settled and running trials, their points and scores) alone: no state is
kept in memory. So a search that was killed and goes on proposes what it would have proposed without the kill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from drawstream.search import gp
from drawstream.search.space import Point, Space

AgentName = Literal["gp", "random"]
FIRST_RANDOM = 4  # scores before the first model, where designed starts do not give them


def is_settled(trial: FrozenTrial, /) -> bool:
    """Whether the trial told something about its point: a score, a degenerate candidate, or a score of NaN.

    Trials that were killed, interrupted or stopped by an error in the objective told nothing.
    """
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("outcome") == "nan"
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def known_trials(trials: Sequence[FrozenTrial], names: Sequence[str], /) -> list[FrozenTrial]:
    """The settled trials, and those that a process is running: what a proposal depends on."""
    return [
        t
        for t in trials
        if all(name in t.params for name in names)
        and (is_settled(t) or (t.state == TrialState.RUNNING and "owner" in t.user_attrs))
    ]


def observations(space: Space, trials: Sequence[FrozenTrial], /) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (n, d) and scores (n,) for the model; trials without a score count as the worst score seen.

    That keeps the agent away from degenerate and diverging regions, and from points that are still running.
    """
    scores = np.array([math.nan if t.value is None else t.value for t in trials])
    points = np.array([[t.params[name] for name in space.names] for t in trials]).reshape(len(trials), len(space.names))
    scored = ~np.isnan(scores)
    if scored.any():
        scores[~scored] = scores[scored].min()
    return points, scores


class SwiftAgent(BaseSampler):
    """Designed starts first, then the Gaussian process with UCB ("gp") or uniform points of the cube ("random").

    Args:
        space: The cube.
        seed: Seed of all proposals.
        agent: "gp" (the paper's) or "random" (its comparator in Fig. 3).
        kappa: Weight of the standard deviation in UCB.
        starts: Whether the designed starts of the space come first.
    """

    def __init__(
        self, space: Space, *, seed: int = 0, agent: AgentName = "gp", kappa: float = 1.0, starts: bool = True
    ) -> None:
        if agent not in ("gp", "random"):
            raise ValueError(f'agent must be "gp" or "random", but got {agent!r}')
        if not (kappa >= 0 and math.isfinite(kappa)):
            raise ValueError(f"kappa >= 0 must hold, but got {kappa}")
        self._space, self._seed, self._agent, self._kappa = space, seed, agent, kappa
        self._starts = space.starts() if starts else []

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature, here and below
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """The unit cube under the coordinates' names."""
        return {name: FloatDistribution(0.0, 1.0) for name in self._space.names}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """The next point."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        known = known_trials(others, self._space.names)
        return dict(zip(self._space.names, self._propose(known).tolist(), strict=True))

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Refuse parameters outside the cube: this sampler serves `search_swift` alone."""
        raise ValueError(f"parameter {param_name!r} is no coordinate of the space {self._space.names}")

    def _propose(self, known: Sequence[FrozenTrial]) -> Point:
        taken = [tuple(t.params[name] for name in self._space.names) for t in known]
        for start in self._starts:
            if tuple(start.tolist()) not in taken:
                return start
        rng = np.random.default_rng([self._seed, 2, len(known)])
        scored = sum(t.value is not None for t in known)
        if self._agent == "random" or scored < FIRST_RANDOM:
            return rng.random(len(self._space.names))
        points, scores = observations(self._space, known)
        return gp.suggest(points, scores, seed=int(rng.integers(2**31)), kappa=self._kappa)
