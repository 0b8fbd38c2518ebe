"""Is the best child better, or was it lucky? Children in turn, scored a second time on rows that choose nothing."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from drawstream.search.auto import InTurn
from drawstream.tools.training.child import ModelChild, reward_of

__all__ = ["TwoScores"]


class TwoScores(InTurn):
    """Children in turn whose accuracy is also taken on a second set; a `Group` of the search.

    The second scores are part of the state, so a search that goes on after a kill has those of its first part. They
    are not for several processes: each would note its own children's.

    Args:
        children: Models in training.
        others: Images (n, C, H, W) and labels (n,) of the second set.

    Attributes:
        scores: Accuracy of every child after every interval so far, per cent.
        seconds: What they took.
    """

    def __init__(self, children: Sequence[ModelChild], others: tuple[Tensor, Tensor], /) -> None:
        super().__init__(children)
        self._others, self._models = others, [child.model for child in children]
        self.scores: list[list[float]] = []
        self.seconds = 0.0

    def evaluate(self) -> NDArray[np.float64]:
        """Rewards, float64 (children,); the second scores are noted."""
        rewards = super().evaluate()
        begin = time.perf_counter()
        self.scores.append([reward_of(model, self._others, "accuracy") for model in self._models])
        self.seconds += time.perf_counter() - begin
        return rewards

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """A copy of one child's state, and the second scores so far."""
        second = {"scores": [list(interval) for interval in self.scores], "seconds": self.seconds}
        return {**super().state_dict(index), "second": second}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Give one state to all children."""
        super().load_state_dict(state)
        self.scores, self.seconds = list(state["second"]["scores"]), state["second"]["seconds"]
