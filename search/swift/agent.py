"""The agent that proposes candidates, in rounds.

Candidates are numbered 0, 1, 2, … and belong to rounds; those of one round are proposed together and may run at the
same time, in any order, on any machine. A proposal is a function of (seed, number, points and scores of the rounds
before) alone: no state is kept. So one worker, several, and a search that was killed and goes on propose the same.

    round 0                  rounds 1, 2, … of `round` candidates
    designed or random       see the points and scores of all rounds before
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drawstream.search.swift import gp, optuna_agents, reinforce
from drawstream.search.swift.space import Point, Space, SpaceName

AGENTS = ("gp", "random", "reinforce", *(optuna_agents.PREFIX + name for name in optuna_agents.STATELESS))
FIRST_RANDOM = 4  # scores before the first model, where designed starts do not give them


@dataclass(frozen=True, slots=True)
class Proposals:
    """Settings of the candidates of a search.

    Attributes:
        trials: Completed trials (40: Tab. 9 of the paper); designed starts count, degenerate candidates do not.
        agent: "gp" (Gaussian process and UCB, the paper's); its comparators in Fig. 3, "random" (uniform points of the
            cube) and "reinforce"; or "optuna:TPESampler", "optuna:GPSampler".
        space: "reduced" (8 dimensions for 2 features, 4 segments) or "paper10".
        segments: Segments of H (4: Tab. 8 of the paper).
        round: Candidates proposed at once, which can run in parallel (the paper has 1).
        starts: Whether the designed starts of the space come first.
        kappa: Weight of the standard deviation in UCB.
        min_ess: Least effective sample size of a candidate, as a share of the rows (0.3: fine-tuning over-rates tiny
            clean subsets).
        seed: Seed of the proposals and of the runs.
    """

    trials: int = 40
    agent: str = "gp"
    space: SpaceName = "reduced"
    segments: int = 4
    round: int = 4
    starts: bool = True
    kappa: float = 1.0
    min_ess: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise ValueError(f"agent must be one of {', '.join(AGENTS)}, but got {self.agent!r}")
        Space(self.space, segments=self.segments)  # refuses what is no space
        if not (self.kappa >= 0 and math.isfinite(self.kappa)):
            raise ValueError(f"kappa >= 0 must hold, but got {self.kappa}")
        if not 0 <= self.min_ess <= 1:
            raise ValueError(f"0 <= min_ess <= 1 must hold, but got {self.min_ess}")
        for name in ("trials", "round"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} >= 1 must hold, but got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class History:
    """Results of earlier rounds: points (n, d) of the cube in order of their numbers, and scores (n,).

    A score is NaN where a candidate was degenerate or its run gave none.
    """

    points: NDArray[np.float64]
    scores: NDArray[np.float64]

    def filled(self) -> NDArray[np.float64]:
        """Scores (n,), with the worst one in place of NaN: it keeps agents away from degenerate regions."""
        known = ~np.isnan(self.scores)
        return np.where(known, self.scores, self.scores[known].min()) if known.any() else self.scores


@dataclass(frozen=True, slots=True)
class SwiftAgent:
    """Proposes the candidates: designed starts first, then those of the agent.

    Attributes:
        space: The cube.
        proposals: Agent, seed, and the rest; its space is not read.
        more: Points that come behind the designed starts.
    """

    space: Space
    proposals: Proposals = Proposals()
    more: tuple[Point, ...] = ()

    def round_of(self, number: int, /) -> tuple[int, int]:
        """First candidate of the round of candidate `number`, and first of the next round."""
        opening = len(self._starts()) or FIRST_RANDOM
        if number < opening:
            return 0, opening
        first = opening + (number - opening) // self.proposals.round * self.proposals.round
        return first, first + self.proposals.round

    def propose(self, number: int, history: History, /) -> list[Point]:
        """The points of the round of this candidate.

        Args:
            number: Of a candidate.
            history: All candidates of the rounds before, in order.
        """
        first, stop = self.round_of(number)
        assert len(history.scores) == first, "the rounds before are the history"
        agent, seed, dimensions = self.proposals.agent, self.proposals.seed, len(self.space.names)
        random = [np.random.default_rng([seed, 2, k]).random(dimensions) for k in range(first, stop)]
        if first == 0:
            return self._starts() or random
        if agent == "random" or np.isfinite(history.scores).sum() < FIRST_RANDOM:
            return random
        points, scores, count = history.points, history.filled(), stop - first
        if agent == "reinforce":
            rounds = range(self.round_of(0)[1], first + 1, self.proposals.round)
            return list(reinforce.draw(*reinforce.policy(points, scores, rounds), count, seed=[seed, 4, first]))
        seed = int(np.random.default_rng([seed, 3, first]).integers(2**31))
        if agent == "gp":
            return list(gp.suggest(points, scores, seed=seed, kappa=self.proposals.kappa, count=count))
        name = agent.removeprefix(optuna_agents.PREFIX)
        return list(optuna_agents.suggest(name, points, scores, seed=seed, count=count))

    def _starts(self) -> list[Point]:
        return [*self.space.starts(), *self.more] if self.proposals.starts else []
