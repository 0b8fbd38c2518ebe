"""A map-style dataset and torch's DataLoader, where images do not lie in shards; it goes on after a stop.

    python -m drawstream.tools.examples.map_style_loop --workers 2

`StreamDataLoader` does the work of `WeightedRandomSampler` and `DistributedSampler`, for any number of rows, weights
and ranks, and its state is exact with any number of workers.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import Dataset

from drawstream import IndexStream, StreamDataLoader


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="File that is written after every batch, and gone on from.")
    parser.add_argument("--stop-after", type=int, help="Stop after so many batches, as a kill would.")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = Digits()
    weights = np.where(digits.labels >= 8, 4.0, 1.0)
    stream = IndexStream(weights, seed=0)
    loader = StreamDataLoader(digits, stream, batch_size=64, num_workers=arguments.workers)  # rank=…, world_size=…
    model = nn.Linear(64, 10)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    if arguments.checkpoint and arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    batches = 0
    for epoch in range(loader.epoch, 3):
        loader.set_epoch(epoch)  # right after a load of this epoch the place is kept
        drawn = torch.zeros(10)
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            drawn += torch.bincount(labels, minlength=10)
            batches += 1
            if arguments.checkpoint:
                draft = arguments.checkpoint.with_suffix(".tmp")
                torch.save({name: part.state_dict() for name, part in parts.items()}, draft)
                draft.replace(arguments.checkpoint)
            if batches == arguments.stop_after:
                return
        shares = " ".join(f"{share:.2f}" for share in (drawn / drawn.sum()).tolist())
        print(f"epoch {epoch}: loss {loss.item():.3f}, shares of the classes {shares}")


if __name__ == "__main__":
    main()
