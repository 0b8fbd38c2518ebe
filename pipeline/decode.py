"""Which image of a run DALI refuses: its errors speak of the whole run, so each image goes through the graph alone."""

from typing import Any, Literal

from drawstream.pipeline.feed import Prepared
from drawstream.pipeline.graph import GraphSpec, build_pipeline


def first_undecodable(
    prepared: Prepared, spec: GraphSpec, /, *, device: Literal["cpu", "gpu"], device_id: int
) -> int | None:
    """Row in the catalog of the first image of a run that the graph cannot take, or None if it takes each of them."""
    count = len(prepared.samples)

    def one(info: Any) -> tuple[Any, ...]:
        if info.iteration == count:
            raise StopIteration
        return tuple(values[info.iteration : info.iteration + 1] for values in prepared.inputs)

    pipeline = build_pipeline(one, spec, batch_size=1, device=device, device_id=device_id, threads=1, prefetch=1)
    for sample in prepared.samples.tolist():
        try:
            pipeline.run()
        except RuntimeError:
            return int(sample)
    return None
