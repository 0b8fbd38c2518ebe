"""Which images of a run DALI refuses: its errors speak of the whole run, so each image goes through the graph alone."""

from dataclasses import replace
from typing import Any, Literal

from drawstream.pipeline.feed import Prepared
from drawstream.pipeline.graph import GraphSpec, build_pipeline


def undecodable(prepared: Prepared, spec: GraphSpec, /, *, device: Literal["cpu", "gpu"], device_id: int) -> list[int]:
    """Rows in the catalog of those images of a run that the graph cannot take, in the order of the run."""
    pipeline, bad = None, []
    plain = replace(spec, transform=replace(spec.transform, randaugment=None, jitter=None))  # they refuse no image
    inputs = prepared.inputs[: 1 + len(plain.inputs)]
    for i, sample in enumerate(prepared.samples.tolist()):
        image = tuple(values[i : i + 1] for values in inputs)
        pipeline = pipeline or _Single(plain, device=device, device_id=device_id)
        if not pipeline.takes(image):
            bad.append(sample)
            pipeline = None  # it is not to be trusted after an error
    return bad


class _Single:
    """A graph for one image at a time."""

    def __init__(self, spec: GraphSpec, *, device: Literal["cpu", "gpu"], device_id: int) -> None:
        self._image: tuple[Any, ...] = ()
        self._pipeline = build_pipeline(
            lambda _: self._image, spec, batch_size=1, device=device, device_id=device_id, threads=1, prefetch=1
        )

    def takes(self, image: tuple[Any, ...]) -> bool:
        self._image = image
        try:
            self._pipeline.run()
        except RuntimeError:
            return False
        return True
