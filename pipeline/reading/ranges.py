"""Images of a remote catalog by range requests: those that lie close together in a shard come with one request."""

from collections import Counter
from collections.abc import Mapping
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


def total_counts(transfers: Mapping[str, Transfer], /) -> dict[str, int]:
    """Return the sums of what transfers counted, by name."""
    total: Counter[str] = Counter({"bytes_downloaded": 0, "retries": 0})
    for each in transfers.values():
        total.update(each.counts)
    return dict(total)


class RangeShards:
    """Fetches members of remote catalogs' shards, with the connections of `remote`. Safe with threads."""

    def __init__(self, catalog: Catalog, remote: Remote) -> None:
        self._catalog = catalog
        self._transfers = {root: Transfer(root, remote) for member in catalog.members if (root := member.remote)}

    @property
    def counts(self) -> dict[str, int]:
        """Bytes downloaded, requests repeated."""
        return total_counts(self._transfers)

    def fetch(
        self,
        shards: NDArray[np.int32],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        starts: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill `out[starts[i] : starts[i] + sizes[i]]` with member i; all arrays but `out` are (n,)."""
        for root, transfer in self._transfers.items():
            spans = [span for span in coalesce(shards, offsets, sizes) if self._root(span.shard) == root]
            self._fetch(transfer, spans, offsets, sizes, starts, out)

    def _root(self, shard: int) -> str | None:
        return self._catalog.member_of(shard).remote

    def _fetch(
        self,
        transfer: Transfer,
        spans: list[Span],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        starts: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill the members of some requests."""
        urls = {shard: self._catalog.shard_url(shard) for shard in {span.shard for span in spans}}
        parts: list[Any] = [(urls[span.shard], span.start, span.stop) for span in spans]
        most = max((span.stop - span.start for span in spans), default=0)
        for span, data in zip(spans, transfer.get(parts, most=most), strict=True):
            if len(data) != span.stop - span.start:
                raise RemoteError(
                    f"{self._catalog.shard_name(span.shard)}: other bytes came instead of the "
                    f"{span.stop - span.start} asked for: the server serves no ranges; read with mode 'cache'"
                )
            received = np.frombuffer(data, np.uint8)
            for i in span.members:
                begin = int(offsets[i]) - span.start
                out[starts[i] : starts[i] + sizes[i]] = received[begin : begin + int(sizes[i])]
