"""AutoSampling with a training step of one's own: a small vision transformer under AdamW, on scikit-learn's digits.

    python -m drawstream.tools.examples.population

`Member` is all that the search needs: it trains on rows, scores itself on held-out rows, and hands its state on: model,
optimizer and learning-rate schedule, for a clone must go on as its parent would have. The search writes a schedule;
replayed from the same initial weights it gives the weights of the search again, bit by bit, and from others it is put
beside uniform training on test rows that chose nothing.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream import IndexStream, InTurn, PopulationPlan, Schedule, search_auto

BATCH, LR = 32, 3e-3
Part = tuple[Tensor, Tensor]  # images float32 (n, 64) and labels int64 (n,)


def digits(noise: float, seed: int) -> tuple[Part, Part, Part]:
    """Shuffle: 1097 rows to train on, a share of them with a random label, 300 for the reward, 400 that report."""
    data, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    images = torch.from_numpy((data.data[order] / 8 - 1).astype(np.float32))
    labels = torch.from_numpy(data.target[order].astype(np.int64))
    wrong = torch.from_numpy(rng.random(1097) < noise)
    labels[:1097][wrong] = torch.from_numpy(rng.integers(0, 10, int(wrong.sum())))
    train, held_out, test = zip(*(torch.split(each, [1097, 300, 400]) for each in (images, labels)), strict=True)
    return train, held_out, test


class Transformer(nn.Module):
    """A vision transformer of one block over the 16 patches of 2×2 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Linear(4, width)
        self.place = nn.Parameter(torch.randn(16, width) * 0.02)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 64)."""
        patches = images.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        logits: Tensor = self.head(self.block(self.patch(patches) + self.place).mean(1))
        return logits


class Member:
    """One child of the population; also how everything else here is trained."""

    def __init__(self, train: Part, held_out: Part, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.rows, self.held_out, self.model = train, held_out, Transformer()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.05)
        self.rate = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def train(self, rows: NDArray[np.int64], /) -> None:
        """Train batch by batch, in the order given."""
        images, labels = self.rows
        for batch in torch.split(torch.from_numpy(rows), BATCH):
            loss = F.cross_entropy(self.model(images[batch]), labels[batch])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.rate.step()

    def evaluate(self) -> float:
        """Accuracy on the held-out rows, per cent."""
        return self.accuracy(*self.held_out)

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Accuracy, per cent."""
        return 100 * float((self.model(images).argmax(1) == labels).double().mean())

    def state_dict(self) -> dict[str, Any]:
        """Three states: without the optimizer's the clone would lose its moments, without the rate its place."""
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "rate")}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the state of another child."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def run(out: Path, *, epochs: int, children: int, noise: float, seeds: int) -> None:
    """Search, replay and compare; prints as it goes."""
    begin = time.perf_counter()
    train, held_out, test = digits(noise, seed=0)
    rows = len(train[0])
    steps = epochs * (rows // BATCH)
    group = InTurn([Member(train, held_out, steps, seed=0) for _ in range(children)])
    plan = PopulationPlan(rows, children, BATCH, epochs, interval=10, first=max(1, epochs // 5))
    found = search_auto(group, out, plan)
    recorded = IndexStream(Schedule.open(found.schedule))

    def train_on(stream: IndexStream, seed: int) -> Member:
        member = Member(train, held_out, steps, seed)
        for epoch in range(epochs):
            member.train(stream.epoch(epoch)[:])
        return member

    again = train_on(recorded, seed=0).model.state_dict()
    same = all(torch.equal(value, again[name]) for name, value in found.state["model"].items())
    told = "the same" if same else "NOT the same"
    print(f"{len(found.winners)} intervals, {children} children; replayed, the weights are {told}")
    plain = IndexStream(rows, seed=0, draws=recorded.draws)
    for name, stream in (("uniform", plain), ("replayed", recorded)):
        reached = [train_on(stream, seed).accuracy(*test) for seed in range(1, seeds + 1)]
        print(f"  test accuracy, {name:9}{''.join(f'{x:7.2f}' for x in reached)}   mean {np.mean(reached):.2f} %")
    print(f"  {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--children", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.4, help="share of training rows with a random label")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the comparison, each from its own weights")
    torch.set_num_threads(1)  # layers this small run no faster on two
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), **vars(parser.parse_args()))
