"""timm's parts in a loop like its train.py, fed by a `Loader`: create_model, optimizer and scheduler factories.

    python -m drawstream.tools.examples.timm_loop data/train --held-out data/holdout --model resnet50 --weights p.npy

`p.npy` has one number per row (`drawstream fit features -o sampler.json --probabilities p.npy`); training with it comes
after the uniform control. Started again, a killed run goes on at the batch of its last checkpoint. timm needs
torchvision.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from drawstream import Catalog, IndexStream, Loader, Transform
from drawstream.tools.examples import missing

try:
    import timm
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, accuracy
except ImportError as error:
    raise missing(error, __name__, "timm") from None

EVERY = 100  # batches between checkpoints, and lines


def train(
    catalog: Catalog, held_out: Catalog, stream: IndexStream, options: argparse.Namespace, checkpoint: Path
) -> float:
    """Train once; top-1 on the held-out set in per cent."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = {"batch_size": options.batch_size, "device": "gpu" if device.type == "cuda" else "cpu"}
    loader = Loader(catalog, stream, transform=Transform.large(train=True, size=options.size), **where)
    check = IndexStream(len(held_out), seed=0)
    loader_eval = Loader(held_out, check, transform=Transform.large(train=False, size=options.size), **where)
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=catalog.num_classes).to(device)
    optimizer = create_optimizer_v2(model, opt=options.opt, lr=options.lr, weight_decay=2e-5)
    updates = len(loader)
    schedule = {"sched": "cosine", "num_epochs": options.epochs, "warmup_epochs": 1}
    scheduler, epochs = create_scheduler_v2(optimizer, **schedule, step_on_epochs=False, updates_per_epoch=updates)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first = saved["loader"]["epoch"]

    batches = 0
    for epoch in range(first, epochs):
        if epoch > first or not checkpoint.exists():
            loader.set_epoch(epoch)  # where train.py calls the sampler's
        model.train()
        losses = AverageMeter()
        at = loader.state_dict()["position"] // options.batch_size
        for step, batch in enumerate(loader, at):
            loss = F.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step_update(num_updates=epoch * updates + step + 1)
            losses.update(loss.item(), len(batch.labels))
            batches += 1
            if batches % EVERY == 0 or step + 1 == updates:
                lr = optimizer.param_groups[0]["lr"]
                print(f"epoch {epoch} [{step + 1}/{updates}] loss {losses.avg:.3f} lr {lr:.4f}")
                draft = checkpoint.with_suffix(".tmp")
                torch.save({name: part.state_dict() for name, part in parts.items()}, draft)
                draft.replace(checkpoint)
            if batches == options.stop_after:
                raise SystemExit(0)
    return validate(model, loader_eval)


@torch.inference_mode()
def validate(model: nn.Module, loader: Loader) -> float:
    """Top-1 in per cent."""
    model.eval()
    top1 = AverageMeter()
    for batch in loader:
        top1.update(accuracy(model(batch.images), batch.labels)[0].item(), len(batch.labels))
    return float(top1.avg)


def main() -> None:
    """Uniform training, and training with weights of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="A .npy file: one number >= 0 per row of the catalog.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--opt", default="sgd")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=224, help="Side of the crops, pixels.")
    parser.add_argument("--out", type=Path, default=Path("runs/timm"), help="Folder of the checkpoints.")
    parser.add_argument("--stop-after", type=int, help="Stop after so many batches, as a kill would.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    catalog, held_out = Catalog.open(options.catalog), Catalog.open(options.held_out)
    streams = {"uniform": IndexStream(len(catalog), seed=0)}
    if options.weights:
        streams["weighted"] = IndexStream(np.load(options.weights), seed=0)
    for name, stream in streams.items():
        top1 = train(catalog, held_out, stream, options, options.out / f"{name}.pt")
        print(f"{name}: held-out top-1 {top1:.2f} % after {options.epochs} epochs")


if __name__ == "__main__":
    main()
