"""MentorNet, data-driven (DD): a small network learns from rows of known labels how losses of right labels look.

Jiang et al., ICML 2018, §4.2: the mentor's inputs are the losses of a row, their differences to a moving percentile,
its label and the progress of the training; its output is the weight of the row; it learns from rows whose labels are
known to be right or wrong. Those here are the trusted rows, each with its right label and with a wrong one drawn for
it: once before every epoch all of them are scored by the model in training, and the mentor goes on learning.
Not stated in the paper, so a choice: the mentor learns along with the model (the authors train it before), a dense
network of the last two visits in place of their LSTM, and the sizes.

Notation
    l, m    loss of a row, nats, and moving average of a percentile of a batch's losses, as of `SelfPaced`
    v       target of the mentor: 1 for a right label, 0 for a wrong one;  w its output, the weight of a row in (0, 1)
    C, K    classes; visits of a row that the mentor sees
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.pipeline import Batch

VISITS = 2  # K
LESSONS = 50  # steps of the mentor before an epoch, over all trusted rows
WIDTH, EMBEDDED = 20, 2  # its hidden units, and numbers that stand for a label
AT_ONCE = 512  # trusted images in a forward pass


class Mentor(nn.Module):
    """Weight of a row by its visits (n, K, 2), each l / log C and (l − m) / log C, its label (n,) and the progress."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, EMBEDDED)
        self.hidden = nn.Linear(2 * VISITS + EMBEDDED + 1, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, visits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Logits of the weights (n,)."""
        known = torch.cat([visits.flatten(1), self.label(labels), visits.new_full((len(labels), 1), progress)], 1)
        logits: Tensor = self.out(torch.tanh(self.hidden(known)))[:, 0]
        return logits


class MentorNet(nn.Module):
    """Losses weighted by a mentor that learns from trusted rows: w l (n,), nats.

    Attributes:
        average: m.
        visits: float32 (rows, K, 2) of the training rows, the newest first; NaN where there is none yet.
        lessons: The same of the trusted rows with their right labels, then with their wrong ones, (2 M, K, 2).
        work: Images that went forward and backward for the mentor so far, beside the training step, int64 (2,).
    """

    average: Tensor
    visits: Tensor
    lessons: Tensor
    work: Tensor

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, /, *, rows: int, classes: int, epochs: int, seed: int
    ) -> None:
        """Make it.

        Args:
            model: The one that is trained.
            images: float32 (M, C, H, W) of the trusted rows, normalised, on the model's device.
            labels: int64 (M,), their right labels.
            rows: Training rows; a batch's ids are below.
            classes: C, at least 2.
            epochs: Of the run.
            seed: Of the wrong labels and of the mentor's first weights.
        """
        super().__init__()
        self._model = (model,)  # not a part of this module
        self._images, self._epochs, self._seed = images, epochs, seed
        self._epoch, self._scale = -1, 1 / math.log(classes)
        shift = 1 + np.random.default_rng([seed, 11]).integers(classes - 1, size=len(labels))
        wrong = (labels + torch.from_numpy(shift).to(labels.device)) % classes
        self._labels = torch.cat([labels, wrong])
        self.percentile, self.decay, self.burn_in = 0.7, 0.5, round(0.18 * epochs)  # as `self_paced`
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.mentor = Mentor(classes).to(labels.device)
        self.register_buffer("average", torch.zeros((), device=labels.device))
        self.register_buffer("visits", torch.full((rows, VISITS, 2), torch.nan, device=labels.device))
        self.register_buffer("lessons", torch.full((2 * len(labels), VISITS, 2), torch.nan, device=labels.device))
        self.register_buffer("work", torch.zeros(2, dtype=torch.int64))

    def forward(self, logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Weighted losses w l (n,), nats; all weights are 1 in the first 18 of 100 epochs."""
        if epoch != self._epoch:
            self._teach(epoch)
            self._epoch = epoch
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        fixed = losses.detach().float()
        self.average = self.decay * self.average + (1 - self.decay) * torch.quantile(fixed, self.percentile)
        self.visits[batch.ids] = self._visited(self.visits[batch.ids], fixed)
        return losses if epoch < self.burn_in else losses * self.weights(batch.ids, batch.labels, epoch)

    @torch.no_grad()
    def weights(self, ids: Tensor, labels: Tensor, epoch: int, /) -> Tensor:
        """Return w (n,) of training rows by their visits so far."""
        with torch.autocast(labels.device.type, enabled=False):
            return torch.sigmoid(self.mentor(self.visits[ids], labels, epoch / self._epochs))

    def get_extra_state(self) -> int:
        """Return the epoch for which the mentor has learnt last: a part of the state."""
        return self._epoch

    def set_extra_state(self, state: int) -> None:
        """Go on in this epoch."""
        self._epoch = state

    def _visited(self, before: Tensor, losses: Tensor) -> Tensor:
        """Visits (n, K, 2) with the newest in front; a row that is new gets it K times."""
        newest = torch.stack([losses, losses - self.average], 1)[:, None] * self._scale
        shifted = torch.cat([newest, before[:, :-1]], 1)
        return torch.where(shifted.isnan(), newest, shifted)

    def _teach(self, epoch: int) -> None:
        """Score the trusted rows, and let the mentor learn to tell their right labels from the wrong ones."""
        (model,) = self._model
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in torch.split(self._images, AT_ONCE)]).float()
        model.train()
        self.work += torch.tensor([len(logits), 0])
        losses = F.cross_entropy(logits.repeat(2, 1), self._labels, reduction="none")
        self.lessons = self._visited(self.lessons, losses)
        target = (torch.arange(len(losses), device=losses.device) < len(logits)).float()
        optimizer = torch.optim.Adam(self.mentor.parameters(), lr=0.01)
        with torch.enable_grad(), torch.autocast(losses.device.type, enabled=False):
            for _ in range(LESSONS):
                optimizer.zero_grad()
                found = self.mentor(self.lessons, self._labels, epoch / self._epochs)
                F.binary_cross_entropy_with_logits(found, target).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def extra_repr(self) -> str:
        """Return the settings that a record stores."""
        return f"trusted={len(self._images)}, epochs={self._epochs}, seed={self._seed}"


def data_driven(
    model: nn.Module, trusted: tuple[Tensor, Tensor], rows: int, classes: int, epochs: int, seed: int
) -> MentorNet:
    """MentorNet DD for a model, by the images and labels of trusted rows."""
    return MentorNet(model, *trusted, rows=rows, classes=classes, epochs=epochs, seed=seed)
