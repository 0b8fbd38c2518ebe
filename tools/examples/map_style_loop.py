"""Only the sampler: a map-style dataset and torch's DataLoader, where images do not lie in shards.

    python -m drawstream.tools.examples.map_style_loop

`StreamBatchSampler` stands where `WeightedRandomSampler` or `DistributedSampler` stood, and does the work of both: any
number of rows, weights, ranks.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from drawstream.pipeline.torch_sampler import StreamBatchSampler
from drawstream.samplers import IndexStream


class Digits(Dataset[tuple[Tensor, int]]):
    """scikit-learn's digits; any dataset of yours with `len()` and `[row]` will do."""

    def __init__(self) -> None:
        data = load_digits()
        self.images = torch.from_numpy(data.images).float().flatten(1) / 8 - 1
        self.labels = data.target

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images[row], int(self.labels[row])


def main() -> None:
    """Train a linear classifier that sees the digits 8 and 9 four times as often as the others."""
    torch.manual_seed(0)
    digits = Digits()
    weights = np.where(digits.labels >= 8, 4.0, 1.0)
    sampler = StreamBatchSampler(IndexStream(weights, seed=0), batch_size=64)  # rank=…, world_size=…
    loader = DataLoader(digits, batch_sampler=sampler)
    model = nn.Linear(64, 10)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn = torch.zeros(10)
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            drawn += torch.bincount(labels, minlength=10)
        shares = " ".join(f"{share:.2f}" for share in (drawn / drawn.sum()).tolist())
        print(f"epoch {epoch}: loss {loss.item():.3f}, shares of the classes {shares}")


if __name__ == "__main__":
    main()
