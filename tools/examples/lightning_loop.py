"""drawstream in PyTorch Lightning: the loader is the trainer's dataloader, its state part of Lightning's checkpoints.

    python -m drawstream.tools.examples.lightning_loop data/train --epochs 3

Lightning must not put a sampler of its own in (`use_distributed_sampler=False`): the stream gives each rank its part.
`StreamDataLoader` over a map-style dataset needs no method and no option: Lightning sets its epoch and keeps its place.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from drawstream import Batch, Catalog, IndexStream, Loader
from drawstream.tools.examples import missing

try:
    import lightning
except ImportError as error:
    raise missing(error, __name__, "lightning") from None


class Classifier(lightning.LightningModule):
    """A linear classifier; the first two methods are all that drawstream needs."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
        self.drawn: list[list[int]] = []  # ids of each epoch, to show that they are the stream's

    def on_train_epoch_start(self) -> None:
        """Draw another epoch; Lightning calls this before it asks the loader for batches."""
        self.trainer.train_dataloader.set_epoch(self.current_epoch)  # type: ignore[union-attr]
        self.drawn.append([])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """The batch as it is: the loader made it on its device."""
        return batch

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch."""
        self.drawn[-1] += batch.ids.tolist()
        return F.cross_entropy(self.model(batch.images), batch.labels)

    def configure_optimizers(self) -> optim.Optimizer:
        """Plain SGD."""
        return optim.SGD(self.parameters(), lr=0.05)


def main() -> None:
    """Train on small images of a catalog with random weights of the rows; a real job takes them from a sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    arguments = parser.parse_args()
    catalog = Catalog.open(arguments.catalog)
    weights = 0.5 + np.random.default_rng(0).random(len(catalog))
    loader = Loader(catalog, IndexStream(weights, seed=0), batch_size=64)
    pixels = catalog.channels * int(catalog.height.max()) * int(catalog.width.max())
    model = Classifier(pixels, catalog.num_classes)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        default_root_dir=arguments.out,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    for epoch, ids in enumerate(model.drawn):
        same = ids == loader.stream.epoch(epoch)[:].tolist()
        print(f"epoch {epoch}: {len(ids)} rows, {'as the stream says' if same else 'NOT the rows of the stream'}")


if __name__ == "__main__":
    main()
