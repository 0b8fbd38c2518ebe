"""Images of a remote catalog by range requests: those that lie close together in a shard come with one request."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.shards import Catalog, Remote, RemoteError, Transfer

GAP = 64 << 10  # bytes between two images that are cheaper to read than to leave out: 2 ms at 30 MB/s
LONGEST = 8 << 20  # bytes of one request, so that a repeated one costs little


@dataclass(slots=True)
class Span:
    """Bytes [start, stop) of the shard of that number, and which members (positions in the request) lie there."""

    shard: int
    start: int
    stop: int
    members: list[int] = field(default_factory=list)


def coalesce(shards: NDArray[np.int32], offsets: NDArray[np.int64], sizes: NDArray[np.int64], /) -> list[Span]:
    """Group members into requests, each of members of one shard with small gaps between them; each is in one span."""
    spans: list[Span] = []
    for i in np.lexsort((offsets, shards)).tolist():
        shard, start = int(shards[i]), int(offsets[i])
        stop = start + int(sizes[i])
        last = spans[-1] if spans else None
        near = last is not None and last.shard == shard and start <= last.stop + GAP
        if last is None or not near or max(last.stop, stop) - last.start > LONGEST:
            spans.append(last := Span(shard, start, stop))
        last.stop = max(last.stop, stop)
        last.members.append(i)
    return spans


class RangeShards:
    """Fetches members of a remote catalog's shards, with the connections of `remote`. Safe with threads."""

    def __init__(self, catalog: Catalog, remote: Remote) -> None:
        assert catalog.remote is not None
        self._catalog = catalog
        self._transfer = Transfer(catalog.remote, remote)

    @property
    def counts(self) -> dict[str, int]:
        """Bytes downloaded, requests repeated."""
        return self._transfer.counts

    def fetch(
        self,
        shards: NDArray[np.int32],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        starts: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill `out[starts[i] : starts[i] + sizes[i]]` with member i; all arrays but `out` are (n,)."""
        spans = coalesce(shards, offsets, sizes)
        urls = {shard: self._catalog.shard_url(shard) for shard in {span.shard for span in spans}}
        parts: list[Any] = [(urls[span.shard], span.start, span.stop) for span in spans]
        most = max((span.stop - span.start for span in spans), default=0)
        for span, data in zip(spans, self._transfer.get(parts, most=most), strict=True):
            if len(data) != span.stop - span.start:
                raise RemoteError(
                    f"{self._catalog.shard_name(span.shard)}: other bytes came instead of the "
                    f"{span.stop - span.start} asked for: the server serves no ranges; read with mode 'cache'"
                )
            received = np.frombuffer(data, np.uint8)
            for i in span.members:
                begin = int(offsets[i]) - span.start
                out[starts[i] : starts[i] + sizes[i]] = received[begin : begin + int(sizes[i])]
