"""Batch selection by callbacks of an event loop, in the manner of Composer's algorithms; that package is not needed.

    python -m drawstream.tools.examples.selection_loop data/train --test data-test --method selective

An algorithm may change the state at each event: model, epoch, step, images, labels, logits, losses, and work in rows of
a full step, (forward + 2 backward) / 3. Uniform draws of as much work are the control; a killed run goes on.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace as State
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional as F

from drawstream import Catalog, IndexStream, Loader, OrderedSGD, SelectiveBackprop
from drawstream.samplers.files import write_atomically
from drawstream.tools.training import top1
from drawstream.tools.training.checkpoints import AsTensors


class Uniform:
    """The control: it changes nothing."""

    selector: Any = None

    def apply(self, event: str, state: State) -> None:
        """Called at batch_start, after_forward and epoch_end."""


class Selective(Uniform):
    """Selective backprop: a scoring pass before the training pass, which sees only what is kept."""

    def __init__(self) -> None:
        self.selector = SelectiveBackprop(budget=0.5, seed=0)

    def apply(self, event: str, state: State) -> None:
        """Keep rows of the batch by their losses."""
        if event == "batch_start":
            state.work += len(state.labels) / 3
            losses = F.cross_entropy(state.model(state.images).detach(), state.labels, reduction="none")
            kept = torch.from_numpy(self.selector.select(losses, epoch=state.epoch, step=state.step).indices)
            state.images, state.labels = state.images[kept], state.labels[kept]


class Ordered(Uniform):
    """Ordered SGD: all rows go forward, and the largest losses count, fewer of them as the accuracy rises."""

    def __init__(self) -> None:
        self.selector, self.right, self.rows = OrderedSGD(), 0, 0

    def apply(self, event: str, state: State) -> None:
        """Keep the largest losses of the batch."""
        if event == "after_forward":
            self.right += int((state.logits.argmax(1) == state.labels).sum())
            self.rows += len(state.labels)
            state.losses = state.losses[self.selector.select(state.losses).indices]
        elif event == "epoch_end":
            self.selector.set_accuracy(100 * self.right / self.rows)
            self.right = self.rows = 0


def fit(model: nn.Module, loader: Loader, algorithm: Uniform, epochs: int, file: Path) -> float:
    """Train a model, from its checkpoint where there is one; the work done, in rows."""
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    parts |= {"selector": AsTensors(algorithm.selector)} if algorithm.selector else {}
    saved = torch.load(file, weights_only=True) if file.exists() else {}
    for name in parts.keys() & saved:
        parts[name].load_state_dict(saved[name])
    state = State(model=model, work=saved.get("work", 0.0))
    for state.epoch in range(saved.get("epoch", 0), epochs):
        loader.set_epoch(state.epoch)
        for state.step, batch in enumerate(loader):
            state.images, state.labels = batch.images, batch.labels
            algorithm.apply("batch_start", state)
            if len(state.labels) == 0:
                continue
            state.logits = model(state.images)
            state.losses = F.cross_entropy(state.logits, state.labels, reduction="none")
            algorithm.apply("after_forward", state)
            state.work += len(state.labels)
            optimizer.zero_grad()
            state.losses.mean().backward()
            optimizer.step()
        algorithm.apply("epoch_end", state)
        with write_atomically(file) as draft:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save(states | {"epoch": state.epoch + 1, "work": state.work}, draft)
    return float(state.work)


def main() -> None:
    """A method, and uniform draws of the same work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--test", type=Path, required=True, help="Catalog that reports the accuracy.")
    parser.add_argument("--method", choices=["selective", "ordered"], default="selective")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="Folder of the checkpoints.")
    arguments = parser.parse_args()
    catalog, test = Catalog.open(arguments.catalog), Catalog.open(arguments.test)
    check = Loader(test, IndexStream(len(test)), batch_size=256)
    pixels = catalog.channels * int(catalog.height.max()) * int(catalog.width.max())
    draws, method = len(catalog), arguments.method
    for name, algorithm in ((method, Selective() if method == "selective" else Ordered()), ("uniform", Uniform())):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, catalog.num_classes))
        loader = Loader(catalog, IndexStream(len(catalog), seed=0, draws=draws), batch_size=128)
        work = fit(model, loader, algorithm, arguments.epochs, arguments.out / f"{method}-{name}-{draws}.pt")
        draws = round(work / arguments.epochs)  # of an epoch of the control
        share = work / len(catalog) / arguments.epochs
        print(f"{name}: test top-1 {top1(model, check):.2f} %, work {share:.3f} of full training")


if __name__ == "__main__":
    main()
