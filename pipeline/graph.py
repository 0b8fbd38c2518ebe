"""The DALI graph: stored bytes in, normalised CHW float batches out; the same operators on CPU and GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import nvidia.dali

from drawstream.pipeline.transform import Transform

dali: Any = nvidia.dali  # its stubs know neither the enumerators nor several inputs at once
fn, types = dali.fn, dali.types

Geometry = Literal["whole", "pad", "window", "center"]
_PIXELS = {"normalized_anchor": False, "normalized_shape": False}


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """What the graph must know before it is built.

    Attributes:
        transform: Sizes and normalisation.
        geometry: Which inputs follow the image: `pad` an int32 offset (y, x); `window` int32 corner (y, x) and
            shape (height, width), pixels.
        mirror: Whether an int32 coin per image follows as the last input.
        raw: Images arrive as uint8 HWC pixels; else as encoded bytes.
        resize: Whether images must be resized to `transform.size` after the geometry.
        channels: 1 (gray) or 3 (RGB).
    """

    transform: Transform
    geometry: Geometry
    mirror: bool
    raw: bool
    resize: bool
    channels: int


def build_pipeline(
    source: Callable[[Any], tuple[Any, ...]],
    spec: GraphSpec,
    *,
    batch_size: int,
    device: Literal["cpu", "gpu"],
    device_id: int,
    threads: int,
    prefetch: int,
) -> Any:
    """Build the graph.

    Args:
        source: Called with DALI's `BatchInfo`, gives one array or list of arrays per input; they must stay as they are
            until the run that they are for is done.
        spec: What the graph does.
        batch_size: Most images of a run.
        device: Where it decodes and transforms.
        device_id: Which GPU.
        threads: DALI's worker threads.
        prefetch: Runs that it computes ahead.

    Returns:
        An `nvidia.dali.Pipeline` with one output, float32 (n, C, H, W).
    """
    on_gpu = device == "gpu"
    pipeline = dali.Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id if on_gpu else None,
        prefetch_queue_depth=prefetch,
    )
    with pipeline:
        pipeline.set_outputs(_graph(source, spec, "gpu" if on_gpu else "cpu"))
    pipeline.build()
    return pipeline


def _graph(source: Callable[[Any], tuple[Any, ...]], spec: GraphSpec, device: str) -> Any:
    """Operators of one batch; returns the output node."""
    kinds = [types.UINT8]
    dims = [3 if spec.raw else 1]
    if spec.geometry == "pad":
        kinds, dims = [*kinds, types.INT32], [*dims, 1]
    elif spec.geometry == "window":
        kinds, dims = [*kinds, types.INT32, types.INT32], [*dims, 1, 1]
    if spec.mirror:
        kinds, dims = [*kinds, types.INT32], [*dims, 0]
    layout = ["HWC" if spec.raw else "", *[""] * (len(kinds) - 1)]
    data, *arguments = fn.external_source(
        source=source,
        num_outputs=len(kinds),
        batch=True,
        batch_info=True,
        dtype=kinds,
        ndim=dims,
        layout=layout,
        no_copy=True,
    )
    mirror = arguments.pop() if spec.mirror else 0
    images = _place(_decode(data, arguments, spec, device), arguments, spec)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=spec.transform.size,
        mean=list(spec.transform.mean),
        std=list(spec.transform.std),
        mirror=mirror,
    )


def _decode(data: Any, arguments: list[Any], spec: GraphSpec, device: str) -> Any:
    """Pixels on the device; a window is cut while decoding, so that only its part is decoded."""
    if spec.raw:
        images = data.gpu() if device == "gpu" else data
        return fn.slice(images, *arguments, axes=[0, 1], **_PIXELS) if spec.geometry == "window" else images
    where = "mixed" if device == "gpu" else "cpu"
    kind = types.RGB if spec.channels == 3 else types.GRAY
    if spec.geometry == "window":
        return fn.decoders.image_slice(data, *arguments, axes=[0, 1], device=where, output_type=kind, **_PIXELS)
    return fn.decoders.image(data, device=where, output_type=kind)


def _place(images: Any, arguments: list[Any], spec: GraphSpec) -> Any:
    """Bring images to the size of the batch, or to the size from which its centre is cut."""
    size = spec.transform.size
    if spec.geometry == "center":
        return fn.resize(images, size=spec.transform.resize, mode="not_smaller", antialias=True)
    if spec.resize:
        images = fn.resize(images, size=size, antialias=True)
    if spec.geometry == "pad":
        images = fn.slice(
            images, start=arguments[0], shape=size, axes=[0, 1], out_of_bounds_policy="pad", fill_values=0
        )
    return images
