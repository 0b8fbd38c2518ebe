"""drawstream in a loop of your own with DistributedDataParallel, resumed at the very batch where it stopped.

    torchrun --nproc-per-node 2 -m drawstream.tools.examples.ddp_loop data/train --epochs 3 --checkpoint ddp.pt

Start it again after a kill: model, optimiser and position come back from the checkpoint.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from drawstream import Catalog, IndexStream, Loader

EVERY = 5  # steps between checkpoints


def main() -> None:
    """Train a linear classifier on small images of a catalog, with random weights of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, default=Path("ddp.pt"))
    parser.add_argument("--stop-after", type=int, help="Stop after so many steps, as a kill would.")
    arguments = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, world_size, local = dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")

    catalog = Catalog.open(arguments.catalog)
    weights = 0.5 + np.random.default_rng(0).random(len(catalog))  # a real job takes them from a sampler
    loader = Loader(
        catalog,
        IndexStream(weights, seed=0),
        batch_size=64 // world_size,
        rank=rank,
        world_size=world_size,
        device=f"gpu:{local}" if on_gpu else "cpu",
    )
    pixels = catalog.channels * int(catalog.height.max()) * int(catalog.width.max())
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(pixels, catalog.num_classes)).to(device))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    first = steps = 0
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first = saved["loader"]["epoch"]
    for epoch in range(first, arguments.epochs):
        if epoch > first:
            loader.set_epoch(epoch)
        for batch in loader:
            losses = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
            loss = (losses * (batch.weights > 0)).mean()  # weight 0: fill, so that all ranks have equal batches
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
            if steps % EVERY == 0 and rank == 0:
                draft = arguments.checkpoint.with_suffix(".tmp")
                torch.save({name: part.state_dict() for name, part in parts.items()}, draft)
                draft.replace(arguments.checkpoint)
            if steps == arguments.stop_after:
                dist.destroy_process_group()
                return
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).double().norm()
    if rank == 0:
        print(f"{arguments.epochs} epochs on {world_size} ranks, norm of the weights {float(norm):.9f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
