"""One peer of the loader benchmark in a process of its own, so that it shares no interpreter, threads or memory.

    python peer_worker.py NAME SPEC.json

It is run by path and imports nothing of drawstream, for the interpreter may be another environment's. The first line on
its standard output is `{"ready": versions}` or `{"missing": reason}`. Then every line on its standard input asks for a
round, one epoch of all images, and is answered by `{"seconds": ..., "labels": [...]}`.

SPEC.json: `shards` paths of the tars; `rows` an .npz with `shard`, `offset`, `size`, `label`, `height`, `width` and
`weight` of every image; `folder` for copies in the peer's own format; `batch_size`, `workers`, `size`, `mean`, `std`,
`scale`, `ratio` as in `Transform`; `seed`; `device`.
"""

import importlib.abc
import importlib.machinery
import io
import json
import math
import os
import random
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

Spec = dict[str, Any]
Epoch = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # batches (images, labels) of the next round
IMAGES = ("jpg", "jpeg", "png", "webp")


def random_window(height: int, width: int, spec: Spec) -> tuple[int, int, int, int]:
    """Left, top, width and height of the random resized crop: the law of `draws.draw_windows`, in whole pixels."""
    low, high = (math.log(r) for r in spec["ratio"])
    for _ in range(10):
        area = height * width * random.uniform(*spec["scale"])  # noqa: S311
        aspect = math.exp(random.uniform(low, high))  # noqa: S311
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h  # noqa: S311
    w, h = min(width, round(height * spec["ratio"][1])), min(height, round(width / spec["ratio"][0]))
    return (width - w) // 2, (height - h) // 2, w, h


def prepare(data: bytes, spec: Spec) -> Tensor:
    """An image file as it goes into the batch: float32 (3, height, width), by Pillow and torch."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    x, y, w, h = random_window(image.height, image.width, spec)
    height, width = spec["size"]
    image = image.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BILINEAR)
    if random.random() < 0.5:  # noqa: S311
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1), spec)


def normalise(pixels: Tensor, spec: Spec) -> Tensor:
    """uint8 (..., 3, height, width) as float32 less the mean, over the standard deviation; contiguous."""
    mean, std = (torch.tensor(spec[name]).view(3, 1, 1) for name in ("mean", "std"))
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)


def rows_of(spec: Spec) -> dict[str, Any]:
    """Where the images lie, arrays of one length."""
    with np.load(spec["rows"]) as rows:
        return {name: rows[name] for name in rows.files}


class TarRows(Dataset[tuple[Tensor, int]]):
    """A map-style set over the tars: one pread per image."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.rows = rows_of(spec)
        self.files = [os.open(path, os.O_RDONLY) for path in spec["shards"]]

    def __len__(self) -> int:
        return len(self.rows["label"])

    def read(self, row: int) -> bytes:
        """The bytes of an image file."""
        where = self.rows
        return os.pread(self.files[where["shard"][row]], int(where["size"][row]), int(where["offset"][row]))

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return prepare(self.read(row), self.spec), int(self.rows["label"][row])


def torch_map(spec: Spec) -> Epoch:
    """Weighted draws of torch's own sampler over the tars."""
    dataset = TarRows(spec)
    generator = torch.Generator().manual_seed(spec["seed"])
    sampler = WeightedRandomSampler(dataset.rows["weight"].tolist(), len(dataset), generator=generator)
    return _epochs(DataLoader(dataset, sampler=sampler, **_options(spec)))


def torch_webdataset(spec: Spec) -> Epoch:
    """The tars from end to end, whole shards to each worker."""
    import webdataset as wds

    def take(sample: dict[str, Any]) -> tuple[Tensor, int]:
        return prepare(next(sample[name] for name in IMAGES if name in sample), spec), int(sample["cls"])

    dataset = wds.WebDataset(spec["shards"], shardshuffle=False, empty_check=False).map(take)
    return _epochs(DataLoader(dataset, **_options(spec)))


def mosaic(spec: Spec) -> Epoch:
    """Mosaic Streaming over a local copy in MDS; its `StreamingDataset` without a shuffle."""
    sys.meta_path.append(_Stubs())
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    source = TarRows(spec)
    folder = _fresh(spec, "mds")
    with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as writer:
        for row in range(len(source)):
            writer.write({"image": source.read(row), "label": int(source.rows["label"][row])})

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(at)
            return prepare(sample["image"], spec), sample["label"]

    dataset = Images(local=str(folder), batch_size=spec["batch_size"], shuffle=False)
    return _epochs(DataLoader(dataset, **_options(spec)))


def litdata(spec: Spec) -> Epoch:
    """LitData over a local copy in its chunks, without a shuffle."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.cache import Cache

    source = TarRows(spec)
    folder = _fresh(spec, "litdata")
    cache = Cache(str(folder), chunk_bytes=1 << 26)
    for row in range(len(source)):
        cache[row] = {"image": source.read(row), "label": int(source.rows["label"][row])}
    cache.done()
    cache.merge()

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> tuple[Tensor, int]:
            sample = super().__getitem__(at)
            return prepare(sample["image"], spec), sample["label"]

    return _epochs(StreamingDataLoader(Images(str(folder), shuffle=False, drop_last=False), **_options(spec)))


def spdl(spec: Spec) -> Epoch:
    """SPDL's thread pipeline and FFmpeg decoder: reads, crops, resizes and flips in threads, no worker processes."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    source = TarRows(spec)
    rows = source.rows
    height, width = spec["size"]

    def decode(row: int) -> tuple[Any, int]:
        x, y, w, h = random_window(int(rows["height"][row]), int(rows["width"][row]), spec)
        flip = "hflip," if random.random() < 0.5 else ""  # noqa: S311
        steps = f"crop={w}:{h}:{x}:{y},scale={width}:{height}:flags=bilinear,{flip}format=pix_fmts=rgb24"
        packets = spdl.io.demux_image(source.read(row))
        return spdl.io.decode_packets(packets, filter_desc=steps), int(rows["label"][row])

    def collate(images: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(spdl.io.to_numpy(spdl.io.convert_frames([frames for frames, _ in images])))
        return normalise(pixels.permute(0, 3, 1, 2), spec), torch.tensor([label for _, label in images])

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        builder = PipelineBuilder().add_source(range(len(source))).pipe(decode, concurrency=spec["workers"])
        pipeline = builder.aggregate(spec["batch_size"]).pipe(collate).add_sink(2).build(num_threads=spec["workers"])
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return epoch


SYSTEMS: dict[str, Callable[[Spec], Epoch]] = {
    "torch webdataset + Pillow": torch_webdataset,
    "torch map-style + Pillow": torch_map,
    "mosaic streaming": mosaic,
    "litdata": litdata,
    "spdl": spdl,
}


class _Stub(types.ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty stand-ins for packages that Mosaic Streaming imports for parts that are not used here.

    torchvision would bring another torch along, and transformers much that nobody calls.
    """

    def find_spec(self, name: str, _: Any, __: Any = None) -> importlib.machinery.ModuleSpec | None:
        wanted = name.split(".")[0] in ("torchvision", "transformers")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _fresh(spec: Spec, name: str) -> Path:
    folder = Path(spec["folder"], name)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _options(spec: Spec) -> dict[str, Any]:
    return {
        "batch_size": spec["batch_size"],
        "num_workers": spec["workers"],
        "persistent_workers": True,
        "pin_memory": spec["device"] == "gpu",
    }


def _epochs(loader: Any) -> Epoch:
    return lambda: iter(loader)


def _round(epoch: Epoch, device: str) -> dict[str, Any]:
    """Consume one epoch; include the copy to the GPU."""
    began = time.perf_counter()
    found = []
    for images, labels in epoch():
        if device == "gpu":
            images.cuda(non_blocking=True)
        found.append(labels)
    if device == "gpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "labels": torch.cat(found).tolist()}


def main(name: str, spec_file: str) -> None:
    """Serve rounds of a system until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    spec = json.loads(Path(spec_file).read_text())
    torch.set_num_threads(1)
    random.seed(spec["seed"])
    try:
        if spec["device"] == "gpu" and not torch.cuda.is_available():
            raise ImportError("its torch sees no CUDA device")
        epoch = SYSTEMS[name](spec)
    except (ImportError, OSError, RuntimeError) as error:
        answer({"missing": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": name})
    for _ in sys.stdin:
        answer(_round(epoch, spec["device"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
