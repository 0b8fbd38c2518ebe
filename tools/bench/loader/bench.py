"""The loader beside its peers, in one run: JPEGs like ImageNet's (`encoded`), or small raw images (`raw`)."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch

from drawstream import pack
from drawstream.pipeline.images import Transform
from drawstream.pipeline.shards import RAW, Catalog
from drawstream.tools.bench.loader.encoded import compare_encoded, format_encoded
from drawstream.tools.bench.loader.photos import open_catalog, pack_photos, pack_smaller, small_images
from drawstream.tools.bench.loader.raw import compare_raw, format_raw
from drawstream.tools.bench.loader.rounds import Setting

__all__ = ["run_loader"]

PHOTOS, SMALL = 2048, 60_000  # images of a round, so that it takes 2 or 3 seconds, or a fraction of one


def run_loader(
    data: str | Path = "photos",
    *,
    batch_sizes: Sequence[int] = (128, 512),
    images: int | None = None,
    rounds: int = 7,
    threads: int = 2,
    device: Literal["cpu", "gpu"] = "cpu",
    work: Path | None = None,
    peers_env: Path | None = None,
    short_side: int | None = None,
    quality: int = 90,
    show: bool = True,
) -> dict[str, Any]:
    """Measure every system, print a table, and return it.

    With `short_side` the loader also runs over the same images as `pack --short-side … --quality …` stores them.

    Returns:
        What `compare_encoded` or `compare_raw` returns.

    Raises:
        ValueError: Raw images for a GPU or stored smaller, or encoded ones that are gray.
    """
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            catalog = _open(data, images, work or scratch, scratch)
            if catalog.encoding_codes[0] == RAW:
                if device != "cpu":
                    raise ValueError("raw images are compared on the CPU, but got --device gpu: leave it out")
                if short_side is not None:
                    raise ValueError(f"raw images are small already, but got --short-side {short_side}: leave it out")
                result = compare_raw(catalog, batch_sizes, rounds=rounds, threads=threads)
                text = format_raw(result)
            else:
                law = Transform.large(train=True, channels=catalog.channels)
                setting = Setting(law, batch_sizes[0], threads, prefetch=2, device=device)
                how: dict[str, Any] = {"rounds": rounds, "peers_env": peers_env}
                if short_side is not None:
                    place = scratch / "smaller"
                    how["smaller"] = pack_smaller(catalog, place, short_side=short_side, quality=quality)
                result = compare_encoded(catalog, setting, scratch, **how)
                text = format_encoded(result)
    finally:
        torch.set_num_threads(torch_threads)
    if show:
        print(text)
    return result


def _open(data: str | Path, images: int | None, work: Path, scratch: Path) -> Catalog:
    """The catalog to load, made where needed."""
    if data == "photos":
        return pack_photos(work, images=images or PHOTOS)
    if (catalog := open_catalog(data, "the comparison")) is not None:
        return catalog
    source = small_images(data, images or SMALL)
    return Catalog.open(pack(source, scratch / "images", limit=min(images or SMALL, len(source))).train)
