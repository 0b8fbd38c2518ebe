"""RHO-loss: train on the rows that are learnable but not yet learnt (Mindermann et al., ICML 2022).

Notation
    l_i   loss of row i under the model in training, nats
    v_i   irreducible loss: that of the row under a model trained on other data (a held-out half, say), fixed, nats
    f     factor: of n rows given the n / f with the largest l − v are trained on; 10 in the paper
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from drawstream.samplers import digest_array, whole_number
from drawstream.samplers.methods.selection import Selected, check_scores, select_largest
from drawstream.samplers.methods.state import Stateful
from drawstream.samplers.methods.visits import to_array

__all__ = ["RHOLoss"]


class RHOLoss(Stateful):
    """RHO-loss selection; a `BatchSelector`. Nothing is drawn and nothing learnt.

        >>> from drawstream import RHOLoss
        >>> selector = RHOLoss([0.1, 2.0, 0.1, 0.0], factor=2)     # the irreducible losses of rows 0 … 3
        >>> selector.select([0.2, 2.3, 0.9, 0.1], epoch=0, step=0, ids=[0, 1, 2, 3]).indices.tolist()
        [1, 2]

    Args:
        irreducible: v, float (N,), finite.
        factor: f >= 2.

    Raises:
        ValueError: v is not finite or not (N,), or factor < 2.
    """

    scores: Literal["loss"] = "loss"
    before = True

    def __init__(self, irreducible: ArrayLike, /, *, factor: int = 10) -> None:
        factor = whole_number(factor, "factor")
        if factor < 2:
            raise ValueError(f"factor >= 2 must hold, but got {factor}")
        self.factor = factor
        self.irreducible = check_scores(irreducible).astype(np.float32)

    def __repr__(self) -> str:
        return f"RHOLoss({self.irreducible.size} rows, factor {self.factor})"

    def select(self, scores: Any, /, *, epoch: int = 0, step: int = 0, ids: Any) -> Selected:  # noqa: ARG002
        """Choose the n / factor rows (rounded down, at least 1) of the global batch with the largest l − v.

        Args:
            scores: losses, float (n,), of a forward pass on the batch; array or tensor.
            epoch: not used.
            step: not used.
            ids: int64 (n,), row numbers of the batch, in [0, N).

        Raises:
            ValueError: losses are not finite or do not fit the ids, or an id is out of range.
        """
        losses, rows = check_scores(scores), to_array(ids, np.int64)
        if rows.shape != losses.shape or rows.min() < 0 or rows.max() >= self.irreducible.size:
            raise ValueError(
                f"ids must be {losses.shape} and in [0, {self.irreducible.size}), but got {rows.shape} in "
                f"[{rows.min(initial=0)}, {rows.max(initial=0)}]"
            )
        return select_largest(losses - self.irreducible[rows], max(1, losses.size // self.factor))

    def _identity(self) -> dict[str, Any]:
        return {"selector": "rho", "factor": self.factor, "irreducible": digest_array(self.irreducible)}
