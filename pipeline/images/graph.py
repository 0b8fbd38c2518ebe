"""The DALI graph: stored bytes in, normalised CHW float batches out; the same operators on CPU and GPU."""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import nvidia.dali
except ImportError as error:
    raise ImportError(
        f"decoding by DALI needs it ({error}): pip install 'drawstream[cuda13]', or [cuda12] for CUDA 12 (without a "
        "GPU either will do), or take --backend pillow"
    ) from None
except TypeError as error:  # DALI 2.4 adds to its docstrings when it is imported
    if sys.flags.optimize < 2:
        raise
    law = "NVIDIA DALI needs docstrings, but -OO or PYTHONOPTIMIZE=2 takes them away"
    raise ImportError(f"{law} ({error}): start without it, or with PYTHONOPTIMIZE=1") from None

from drawstream.pipeline.fields import NO_MASK
from drawstream.pipeline.images.graph_spec import GraphSpec
from drawstream.pipeline.images.randaugment import apply_operations

dali: Any = nvidia.dali  # its stubs know neither the enumerators nor several inputs at once
fn, types = dali.fn, dali.types

_KINDS: dict[type[np.generic], Any] = {np.uint8: types.UINT8, np.int32: types.INT32, np.float32: types.FLOAT}
_PIXELS = {"normalized_anchor": False, "normalized_shape": False}
_plain = dali.pipeline.do_not_convert  # such functions branch on Python's values only, also in graphs with conditionals


def build_pipeline(
    source: Callable[[Any], tuple[Any, ...]],
    spec: GraphSpec,
    *,
    run_size: int,
    gpu: int | None,
    threads: int,
    prefetch: int,
) -> Any:
    """Build the graph; its output is float32 (n, C, H, W), and of masks int64 (n, H, W, 1).

    `source` gets DALI's `BatchInfo` and gives one array or list of arrays per input, which must stay as they are until
    the run that they are for is done; a run has at most `run_size` images. `gpu` is the GPU's number, None the CPU.
    """
    conditional = spec.transform.randaugment is not None or spec.turn
    pipeline = dali.pipeline_def(_graph, enable_conditionals=conditional)(
        source,
        spec,
        "cpu" if gpu is None else "gpu",
        batch_size=run_size,
        num_threads=threads,
        device_id=gpu,
        prefetch_queue_depth=prefetch,
    )
    pipeline.build()
    return pipeline


def _graph(source: Callable[[Any], tuple[Any, ...]], spec: GraphSpec, device: str) -> Any:
    """Operators of one batch; returns the output nodes."""
    data, given = _inputs(source, spec)
    images = _decode(data, given, spec, device)
    if spec.turn:
        images = _turn(images, given["sideways"], given["turn_mirror"], given["turn_flip"])
    images = _widen(_resize(images, spec), spec)
    mirror = given.get("mirror", 0)
    if spec.transform.suite is not None:
        images = _crop(apply_operations(images, given, spec.transform, channels=spec.channels), given, spec)
    else:
        images = _crop(images, given, spec)
        if spec.transform.randaugment is not None:
            if "mirror" in given:  # before the operations, as in raw images that arrive mirrored
                images, mirror = fn.flip(images, horizontal=mirror), 0
            images = apply_operations(images, given, spec.transform, channels=spec.channels)
    images = fn.crop_mirror_normalize(
        _jitter(images, given, spec),
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=spec.transform.size,
        mean=list(spec.transform.mean),
        std=list(spec.transform.std),
        mirror=mirror,
    )
    if spec.mask:
        return images, _masks(given, spec, device)
    return images


def _masks(given: dict[str, Any], spec: GraphSpec, device: str) -> Any:
    """Class numbers that follow their images, the nearest ones where these are resized; on the CPU, then copied."""
    masks = _decode_masks(given, spec)
    if spec.turn:
        masks = _turn(masks, given["sideways"], given["turn_mirror"], given["turn_flip"])
    masks = _resize(masks, spec, interp_type=types.INTERP_NN, antialias=False)
    masks = fn.cast(masks, dtype=types.INT32) // given["mask_divisor"]
    masks = fn.crop(_crop(masks, given, spec, NO_MASK), crop=spec.transform.size)
    if "mirror" in given:
        masks = fn.flip(masks, horizontal=given["mirror"])
    masks = fn.cast(masks, dtype=types.INT64)
    return masks.gpu() if device == "gpu" else masks


@_plain
def _decode_masks(given: dict[str, Any], spec: GraphSpec) -> Any:
    options = {"output_type": types.GRAY, "dtype": types.UINT16, "adjust_orientation": False}
    if spec.geometry == "window":
        return _window(fn.decoders.image_slice, given["mask"], given, device="cpu", **options)
    return fn.decoders.image(given["mask"], device="cpu", **options)


@_plain
def _inputs(source: Callable[[Any], tuple[Any, ...]], spec: GraphSpec) -> tuple[Any, dict[str, Any]]:
    """Nodes of the stored images, and of the values that come with them."""
    inputs = spec.inputs
    data, *values = fn.external_source(
        source=source,
        num_outputs=1 + len(inputs),
        batch=True,
        batch_info=True,
        dtype=[types.UINT8, *(_KINDS[kind] for kind, _ in inputs.values())],
        ndim=[3 if spec.raw else 1, *(ndim for _, ndim in inputs.values())],
        layout=["HWC" if spec.raw else "", *[""] * len(inputs)],
        no_copy=True,
    )
    return data, dict(zip(inputs, values, strict=True))


@_plain
def _decode(data: Any, given: dict[str, Any], spec: GraphSpec, device: str) -> Any:
    """Pixels on the device; a window is cut while decoding, so that only its part is decoded."""
    if spec.raw:
        images = data.gpu() if device == "gpu" else data
        return _window(fn.slice, images, given) if spec.geometry == "window" else images
    where = "mixed" if device == "gpu" else "cpu"
    kind = types.RGB if spec.channels == 3 and not spec.widen else types.GRAY
    options = {"device": where, "output_type": kind, "adjust_orientation": False}
    if spec.geometry == "window":
        return _window(fn.decoders.image_slice, data, given, **options)
    return fn.decoders.image(data, **options)


def _window(cut: Callable[..., Any], data: Any, given: dict[str, Any], **options: Any) -> Any:
    return cut(data, given["corner"], given["shape"], axes=[0, 1], **_PIXELS, **options)


def _turn(images: Any, sideways: Any, mirror: Any, flip: Any) -> Any:
    """Turn images upright: rows become columns where `sideways` is 1, then sides change places."""
    if sideways == 1:
        images = fn.transpose(images, perm=[1, 0, 2], transpose_layout=False, output_layout="HWC")
    return fn.flip(images, horizontal=mirror, vertical=flip)


@_plain
def _resize(images: Any, spec: GraphSpec, **how: Any) -> Any:
    """Bring images to the size of the batch, or to the size from which its centre is cut."""
    how = {"antialias": True, **how}
    if spec.geometry == "center":
        return fn.resize(images, size=spec.transform.resize, mode="not_smaller", **how)
    return fn.resize(images, size=spec.transform.size, **how) if spec.resize else images


@_plain
def _crop(images: Any, given: dict[str, Any], spec: GraphSpec, outside: int = 0) -> Any:
    """Cut images of the size of the batch out of padded ones."""
    if spec.geometry != "pad" or "corner" not in given:
        return images
    cut = {"start": given["corner"], "shape": spec.transform.size, "axes": [0, 1]}
    return fn.slice(images, **cut, out_of_bounds_policy="pad", fill_values=outside)


@_plain
def _widen(images: Any, spec: GraphSpec) -> Any:
    """RGB of gray images, after the resizing, which rounds each channel by itself."""
    return fn.cat(images, images, images, axis=2) if spec.widen else images


@_plain
def _jitter(images: Any, given: dict[str, Any], spec: GraphSpec) -> Any:
    """Images with the colours changed by the factors of each, rounded to whole levels of 0..255."""
    if not spec.factors:
        return images
    change = fn.color_twist if spec.channels == 3 else fn.brightness_contrast
    return change(images, **{name: given[name] for name in spec.factors})


def _leave_graphs() -> None:
    """Part with the graphs of the parent: their threads are not here, and DALI would wait for them at exit."""
    for weak in list(dali.Pipeline._pipes):
        pipeline = weak()
        if pipeline is not None and pipeline._pipe:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline._pipe))  # never destroyed
            pipeline._pipe = None


os.register_at_fork(after_in_child=_leave_graphs)
