"""Losses that withstand wrong labels, with which the Swift Sampler paper compares: `LoopParts(criterion=…)`.

Notation
    z, y    logits (n, C) float32 and targets (n,) int64 of a batch;  t = onehot(y);  p = softmax(z)
    l       cross-entropy −log p_y of each row, nats (n,)
    w       weight of a row, (n,) float32, no gradient
    θ       parameters of the model;  ε (n,): w = ε in the virtual step of L2RW;  L_c mean loss of a trusted batch

Called with (logits, batch, epoch), each gives the loss of each row (n,); the loop takes their mean. What one keeps
from epoch to epoch is a buffer, and so part of the checkpoint. Under several ranks each sees its own part of the global
batch, and its weights are of that part.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.pipeline import Batch, to_device

BETA = {"soft": 0.95, "hard": 0.8}  # Reed et al. 2015, §4


class Reed(nn.Module):
    """Bootstrapped cross-entropy: −Σ_k (β t_k + (1 − β) q_k) log p_k (Reed et al., ICLR 2015 workshop, Eq. 6 and 7).

    `soft` has q = p, and the gradient flows through it too: 1 − β of the loss is then the entropy of p. `hard` has
    q = onehot(argmax p).
    """

    def __init__(self, kind: Literal["soft", "hard"], beta: float | None = None) -> None:
        """Make it; without `beta` it is the paper's, 0.95 soft and 0.8 hard.

        Raises:
            ValueError: Another kind, or β outside [0, 1].
        """
        super().__init__()
        if kind not in BETA:
            raise ValueError(f"`kind` must be soft or hard, but got {kind!r}")
        self.kind, self.beta = kind, BETA[kind] if beta is None else beta
        if not 0 <= self.beta <= 1:
            raise ValueError(f"`0 <= beta <= 1` must hold, but got {beta}")

    def forward(self, logits: Tensor, batch: Batch, _: int) -> Tensor:
        """Losses (n,), nats."""
        log_p = F.log_softmax(logits, dim=1)
        own = log_p.gather(1, batch.labels[:, None])[:, 0]
        guess = (log_p.exp() * log_p).sum(1) if self.kind == "soft" else log_p.max(1).values
        return -(self.beta * own + (1 - self.beta) * guess)

    def extra_repr(self) -> str:
        """Return the settings that a record stores."""
        return f"{self.kind}, beta={self.beta}"


class SelfPaced(nn.Module):
    """Self-paced weights, MentorNet's predefined curriculum (PD): w = 1[l < m], m an average of a percentile of l.

    As in the authors' code (google/mentornet): m begins at 0 and takes in the batch before it is compared, rows of
    weight 0 stay in the mean. The full MentorNet needs a network that was trained for the purpose; this is not it. Nor
    does it drop rows at random, as that code does in its first epochs.

    Attributes:
        average: m, the moving average over steps, nats.
    """

    average: Tensor

    def __init__(self, *, percentile: float = 0.7, decay: float = 0.5, burn_in: int = 0) -> None:
        """Make it; the defaults are those of the authors' training script.

        Args:
            percentile: Of a batch's losses, as a share in [0, 1].
            decay: Part of m that stays at a step, in [0, 1).
            burn_in: Epochs in which every weight is 1; m follows already.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__()
        if not (0 <= percentile <= 1 and 0 <= decay < 1 and burn_in >= 0):
            got = f"{percentile}, {decay} and {burn_in}"
            raise ValueError(f"`0 <= percentile <= 1`, `0 <= decay < 1` and `burn_in >= 0` must hold, but got {got}")
        self.percentile, self.decay, self.burn_in = percentile, decay, burn_in
        self.register_buffer("average", torch.zeros(()))

    def forward(self, logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Weighted losses w l (n,), nats."""
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        fixed = losses.detach().float()
        level = torch.quantile(fixed, self.percentile)
        self.average = self.decay * self.average.to(level.device) + (1 - self.decay) * level
        return losses if epoch < self.burn_in else losses * (fixed < self.average)

    def extra_repr(self) -> str:
        """Return the settings that a record stores."""
        return f"percentile={self.percentile}, decay={self.decay}, burn_in={self.burn_in}"


class LearnedWeights(nn.Module):
    """Learning to reweight (L2RW; Ren et al., ICML 2018, Alg. 1): weights that lower the loss of trusted rows at once.

    A batch's weights sum to 1 and may all lie on a few rows, so it bears a lower learning rate than the plain mean:
    on clean digits in batches of 32 it ended at chance with 0.05, and at 97 % with 0.02.

    Attributes:
        work: Images that went forward and backward for the weights so far, beside the training step, int64 (2,); the
            pass through the batch's own gradient counts as a second backward.
    """

    work: Tensor

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, /, *, batch_size: int, seed: int) -> None:
        """Make it.

        Args:
            model: The one that is trained.
            images: float32 (M, C, H, W) of the trusted rows, normalised, on the model's device.
            labels: int64 (M,), as right as the method supposes them to be.
            batch_size: Trusted rows of a step, drawn without replacement; all M where there are fewer.
            seed: Of these draws, which depend on nothing but it, the epoch and the step.
        """
        super().__init__()
        self._logits = model.__call__  # neither the model nor θ is part of this module's state
        self._theta = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._trusted = images, labels
        self._batch_size, self._seed = min(batch_size, len(labels)), seed
        self._epoch, self._step = -1, 0
        self.register_buffer("work", torch.zeros(2, dtype=torch.int64))

    def forward(self, logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Weighted losses n w l (n,), nats: their mean is Σ w l."""
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        images, labels = self._draw(epoch)
        weights = learned_weights(losses, F.cross_entropy(self._logits(images), labels), self._theta)
        self.work += torch.tensor([len(labels), len(labels) + 2 * len(losses)])
        return losses * weights * len(losses)

    def get_extra_state(self) -> list[int]:
        """Return the epoch and step drawn last: a part of the state."""
        return [self._epoch, self._step]

    def set_extra_state(self, state: list[int]) -> None:
        """Go on after this epoch and step."""
        self._epoch, self._step = state

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The trusted rows of the next step."""
        self._step = self._step + 1 if epoch == self._epoch else 0
        self._epoch = epoch
        images, labels = self._trusted
        generator = np.random.default_rng([self._seed, epoch, self._step])
        rows = to_device(generator.choice(len(labels), self._batch_size, replace=False), labels.device)
        return images[rows], labels[rows]

    def extra_repr(self) -> str:
        """Return the settings that a record stores."""
        return f"trusted={len(self._trusted[1])}, batch_size={self._batch_size}, seed={self._seed}"


def learned_weights(losses: Tensor, trusted: Tensor, theta: Sequence[Tensor], /) -> Tensor:
    """Weights of L2RW: max(−∂L_c(θ(ε)) / ∂ε, 0) at ε = 0, scaled to sum 1; all 0 where no row helps.

    θ(ε) = θ − α ∇ Σ ε_i l_i is a virtual step of plain gradient descent. At ε = 0 it stays at θ, so that the derivative
    is −α ∇L_c · ∇l_i, and α cancels. The products of all rows come from one backward pass that keeps its own graph, for
    Σ v_i ∇l_i, and one through it, for the derivative of its product with ∇L_c by v.

    Args:
        losses: l (n,), with its graph, which stays.
        trusted: L_c, a scalar with its graph, which is freed.
        theta: θ.

    Returns:
        float (n,), no gradient.
    """
    direction = torch.autograd.grad(trusted, theta)
    v = torch.zeros_like(losses, requires_grad=True)
    along = torch.autograd.grad(losses, theta, v, create_graph=True)
    (products,) = torch.autograd.grad(along, v, direction)
    positive = products.clamp(min=0)
    total = positive.sum()
    return positive / torch.where(total > 0, total, 1.0)


def reed_soft() -> Reed:
    """Soft bootstrapping with the paper's β."""
    return Reed("soft")


def reed_hard() -> Reed:
    """Hard bootstrapping with the paper's β."""
    return Reed("hard")


def self_paced(epochs: int) -> SelfPaced:
    """Self-paced weights; all are 1 in the first 18 of 100 epochs, as in MentorNet's code."""
    return SelfPaced(burn_in=round(0.18 * epochs))


def learned(model: nn.Module, trusted: tuple[Tensor, Tensor], global_batch: int, seed: int) -> LearnedWeights:
    """Weights of L2RW for a model, by the images and labels of trusted rows."""
    return LearnedWeights(model, *trusted, batch_size=global_batch, seed=seed)
