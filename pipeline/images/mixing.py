"""Mixed batches: mixup and RICAP on tensors, on whatever device the batch is.

Every image of a batch is mixed with other images of the same batch, and its label becomes several labels with shares:

    mixup = Mixup(alpha=0.3, seed=0)
    for step, batch in enumerate(loader):
        mixed = mixup(batch, epoch=epoch, step=step, rank=rank)
        loss = mixed.loss(model(mixed.images))

What is drawn is a pure function of (seed, epoch, step, rank), where step is the number of the global batch within its
epoch. A resumed run mixes as the undisturbed one does if it goes on counting: `enumerate(loader, position //
global_batch)`, with the position of the loader's state. No draw waits for the device.

Samplers that watch p_y, the probability of a row's label (p-SGD, c-SGD …), get the shares' mean
Σ_j share_j · p(label_j) from mixed images: it costs nothing, but stays below 1 for a perfect model, and ranks rows by
how they were mixed as well as by how hard they are. A method that needs the pure p_y takes it from a forward pass on
the unmixed images.

Notation: n images of C channels, H × W; classes K; λ share of the first image; α, β of Beta(α, α), Beta(β, β).
"""

import operator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from drawstream.pipeline import Batch, to_device
from drawstream.pipeline.images.draws import key, to_unit

_MIXUP, _RICAP = 7, 8  # purposes of the keys, beside those of `draws`


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """Images with several labels each.

    Attributes:
        images: float32 (n, C, H, W), as the batch's.
        labels: int64 (n, k), the labels in each image; the first is that of the row itself, but for
            `RICAP(permuted=True)`.
        shares: float32 (n, k), how much each counts; a row sums to 1.
    """

    images: Tensor
    labels: Tensor
    shares: Tensor

    def loss(self, logits: Tensor, /, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Cross-entropy against the shared labels, Σ_j share_j · CE(logits, label_j), nats.

        Args:
            logits: float (n, K).
            reduction: `mean` over the batch, or `none`: (n,), for losses that are weighted or watched row by row.

        Raises:
            ValueError: Another reduction.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"`reduction` must be mean or none, but got {reduction!r}")
        rows = -(F.log_softmax(logits, 1).gather(1, self.labels) * self.shares).sum(1)
        return rows.mean() if reduction == "mean" else rows

    def soft_labels(self, classes: int, /) -> Tensor:
        """Shares by class, float32 (n, classes); a row sums to 1."""
        soft = torch.zeros(len(self.labels), classes, device=self.labels.device)
        return soft.scatter_add_(1, self.labels, self.shares)


@dataclass(frozen=True, slots=True)
class Mixup:
    """Each image is a weighted mean of two (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", Sec. 2).

    x̃ = λ x_i + (1 - λ) x_j and ỹ = λ y_i + (1 - λ) y_j, one λ ~ Beta(α, α) per batch and j a random permutation of it,
    as in the authors' code.

    Attributes:
        alpha: α. 0.3 as in budgeted training; the authors take 0.2 for ImageNet and 1 for CIFAR.
        seed: Keys the draws.
        larger: Take the larger of λ and 1 − λ for the row's own image, as in the selective backprop of Arazo et al.;
            None: λ as it is drawn.
    """

    alpha: float = 0.3
    seed: int = 0
    larger: Literal[True] | None = None

    def __post_init__(self) -> None:
        _check("alpha", self.alpha)

    def share(self, epoch: int, step: int, rank: int = 0) -> float:
        """λ of the batch that `rank` has at `step` of `epoch`, in [0, 1]."""
        return self._share(_words(self.seed, epoch, _MIXUP, step, rank, 1))

    def _share(self, words: NDArray[np.uint64]) -> float:
        (share,) = _beta(self.alpha, words)
        return max(share, 1 - share) if self.larger else share

    def __call__(
        self, images: Tensor | Batch, labels: Tensor | None = None, /, *, epoch: int, step: int, rank: int = 0
    ) -> Mixed:
        """Mix a batch: float images (n, C, H, W), labels int64 (n,), or a loader's `Batch`.

        Raises:
            ValueError: The batch has a mask or boxes, which no mixture can follow.
        """
        images, labels = _taken(images, labels)
        n = len(images)
        words = _words(self.seed, epoch, _MIXUP, step, rank, 1 + n)
        share = self._share(words[:1])
        other = _permutation(words[1:], images.device)
        shares = _shares([share, 1 - share], n, images.device)
        return Mixed(torch.lerp(images[other], images, share), torch.stack([labels, labels[other]], 1), shares)


@dataclass(frozen=True, slots=True)
class RICAP:
    """Each image is patched together from four (Takahashi et al. 2018, "RICAP: Random Image Cropping and Patching").

    Sec. 3.1: the boundary is at w = round(w' W), h = round(h' H) with w', h' ~ Beta(β, β); the patches, upper left,
    upper right, lower left and lower right, are cut from four images, each at a place uniform over all that fit, and
    label k has the share of its area, w_k h_k / (W H). Boundary and places are drawn once per batch, and the images by
    permutations of it, as in the authors' code; the upper left is the row's own image.

    Attributes:
        beta: β. 0.3 as in the paper.
        seed: Keys the draws.
        permuted: Take the upper left from a permutation too, as in the code of Arazo et al.: a row's own image is then
            in the mixture by chance alone. None: it is the row's own.
    """

    beta: float = 0.3
    seed: int = 0
    permuted: Literal[True] | None = None

    def __post_init__(self) -> None:
        _check("beta", self.beta)

    def __call__(
        self, images: Tensor | Batch, labels: Tensor | None = None, /, *, epoch: int, step: int, rank: int = 0
    ) -> Mixed:
        """Mix a batch: images (n, C, H, W), labels int64 (n,), or a loader's `Batch`; errors as those of `Mixup`."""
        images, labels = _taken(images, labels)
        n, _, height, width = images.shape
        words = _words(self.seed, epoch, _RICAP, step, rank, 10 + (4 if self.permuted else 3) * n)
        w, h = (round(side * part) for side, part in zip((width, height), _beta(self.beta, words[:2]), strict=True))
        places = to_unit(words[2:10]).tolist()
        out, found, areas = torch.empty_like(images), [], []
        patches = product(((0, h), (h, height - h)), ((0, w), (w, width - w)))  # upper left to lower right
        for k, ((y, high), (x, wide)) in enumerate(patches):
            start = 10 + (k - 1 if k else 3) * n
            whole = k == 0 and not self.permuted
            rows = slice(None) if whole else _permutation(words[start : start + n], images.device)
            top = int(places[2 * k] * (height - high + 1))
            left = int(places[2 * k + 1] * (width - wide + 1))
            out[:, :, y : y + high, x : x + wide] = images[:, :, top : top + high, left : left + wide][rows]
            found.append(labels[rows])
            areas.append(high * wide / (height * width))
        shares = _shares(areas, n, images.device)
        return Mixed(out, torch.stack(found, 1), shares)


def _taken(images: Tensor | Batch, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images and labels to mix."""
    if isinstance(images, Batch):
        if images.placed:
            law = f"mixed images have no one geometry that {images.placed[0]!r} could follow"
            raise ValueError(f"{law}: leave out the mixing, or `mask` and `boxes` of the loader")
        return images.images, images.labels
    if labels is None:
        raise ValueError("mixing needs the labels of the images: give a Batch, or images and labels")
    return images, labels


def _words(seed: int, epoch: int, purpose: int, step: int, rank: int, count: int) -> NDArray[np.uint64]:
    """Random words of one batch, (count,): counter words 1 and 2 are step and rank, word 0 counts within the batch."""
    epoch, step, rank = (operator.index(number) for number in (epoch, step, rank))  # NumPy's overflow when shifted
    if min(epoch, step, rank) < 0:
        raise ValueError(f"`epoch, step, rank >= 0` must hold, but got {epoch}, {step}, {rank}")
    philox = np.random.Philox(key=key(seed, epoch, purpose), counter=step << 64 | rank << 128)
    return philox.random_raw(count)


def _beta(alpha: float, words: NDArray[np.uint64]) -> list[float]:
    """One number of Beta(α, α) per word, by the inverse of its distribution function."""
    from scipy.special import betaincinv

    return [float(value) for value in betaincinv(alpha, alpha, to_unit(words))]


def _permutation(words: NDArray[np.uint64], device: torch.device) -> Tensor:
    """Uniform permutation by the order of random words (n,): int64 (n,)."""
    return to_device(np.argsort(words, kind="stable"), device)


def _shares(values: list[float], n: int, device: torch.device) -> Tensor:
    """The same shares (k,) for all rows: float32 (n, k)."""
    return to_device(torch.tensor(values), device).expand(n, len(values))


def _check(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name} > 0` must hold, but got {value}")
