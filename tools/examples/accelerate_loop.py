"""drawstream under Hugging Face Accelerate: it wraps the model and the optimiser, and the loader divides the data.

    accelerate launch --cpu --num_processes 2 -m drawstream.tools.examples.accelerate_loop data/train --epochs 3

Do not give the loader to `accelerator.prepare`: it would divide once more what is this rank's part already. The same
holds for `StreamDataLoader` over a map-style dataset; `accelerator.register_for_checkpointing(loader)` saves its place.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import nn, optim
from torch.nn import functional as F

from drawstream import Catalog, IndexStream, Loader
from drawstream.tools.examples import missing

try:
    from accelerate import Accelerator
except ImportError as error:
    raise missing(error, __name__, "accelerate") from None


def main() -> None:
    """Train a linear classifier on small images of a catalog, with random weights of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()

    accelerator = Accelerator()
    catalog = Catalog.open(arguments.catalog)
    weights = 0.5 + np.random.default_rng(0).random(len(catalog))  # a real job takes them from a sampler
    loader = Loader(
        catalog,
        IndexStream(weights, seed=0),
        batch_size=64 // accelerator.num_processes,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=f"gpu:{accelerator.local_process_index}" if accelerator.device.type == "cuda" else "cpu",
    )
    pixels = catalog.channels * int(catalog.height.max()) * int(catalog.width.max())
    linear = nn.Sequential(nn.Flatten(), nn.Linear(pixels, catalog.num_classes))
    model, optimizer = accelerator.prepare(linear, optim.SGD(linear.parameters(), lr=0.05))
    for epoch in range(arguments.epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            losses = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
            loss = (losses * (batch.weights > 0)).mean()  # weight 0: fill, so that all ranks have equal batches
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        total = accelerator.reduce(loss.detach(), "mean")
        accelerator.print(f"epoch {epoch}: loss of the last batch {float(total):.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
