"""Images and captions with a contrastive loss, as CLIP is trained; then images are classified by sentences alone.

    python -m drawstream.tools.examples.caption_loop

The data are scikit-learn's digits with generated captions, packed with them as the field `txt`; shards as img2dataset
writes them (`.jpg .txt .json`) are indexed with `drawstream index SHARDS --label none --fields txt`. The training sees
no class, only captions; the last line says how many held-out digits are nearest to the sentence with their name.

Radford et al. 2021, "Learning transferable visual models from natural language supervision".
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim
from torch.nn import functional as F

from drawstream import ArraySource, Catalog, IndexStream, Loader, Transform, pack

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORMS = ("the digit {}", "a photo of a {}", "somebody wrote {} by hand", "this is {}, I think", "{}")
BUCKETS = 512  # of hashed words: the text encoder needs no list of them


class Captions(nn.Module):
    """Text encoder: the mean of what the words mean, each by its own hash; float32 (n, width) of n texts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, width, mode="mean")

    def forward(self, texts: list[str]) -> Tensor:
        """Encode texts."""
        words = [text.lower().split() for text in texts]
        buckets = [crc32(word.encode()) % BUCKETS for text in words for word in text]
        starts = np.cumsum([0, *map(len, words[:-1])])
        found: Tensor = self.words(torch.tensor(buckets), torch.from_numpy(starts))
        return found


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of finding the text of each image in the batch, and the reverse; both are (n, width)."""
    logits = scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(len(images))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def main() -> None:
    """Train both encoders, and say how well they go together on held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()

    digits, rng = load_digits(), np.random.default_rng(0)
    captions = [FORMS[rng.integers(len(FORMS))].format(NAMES[label]) for label in digits.target]
    source = ArraySource((digits.images * 15.9375).astype(np.uint8), digits.target, fields={"txt": captions})
    with TemporaryDirectory() as folder:
        pack(source, Path(folder) / "data", holdout=297)
        train, held = (Catalog.open(Path(folder) / "data" / part) for part in ("train", "holdout"))

        torch.manual_seed(0)
        images = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        texts, scale = Captions(64), nn.Parameter(torch.tensor(2.0))
        optimizer = optim.AdamW([*images.parameters(), *texts.parameters(), scale], lr=3e-3)
        transform = Transform.small((8, 8), 1)
        loader = Loader(train, IndexStream(len(train), seed=0), transform=transform, batch_size=100, fields=("txt",))
        for epoch in range(arguments.epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                loss = contrastive_loss(images(batch.images), texts(batch.fields["txt"]), scale)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}")

        sentences = F.normalize(texts([f"a photo of a {name}" for name in NAMES]), dim=1)
        right = sum(
            int(((F.normalize(images(batch.images), dim=1) @ sentences.T).argmax(1) == batch.labels).sum())
            for batch in Loader(held, transform=transform, batch_size=297)
        )
        print(f"{right} of {len(held)} held-out digits are nearest to the sentence with their name")


if __name__ == "__main__":
    main()
