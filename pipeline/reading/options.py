"""Options of how a loader reads and decodes its images; none of them changes what it gives."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

from drawstream.pipeline import MOST, whole
from drawstream.pipeline.shards import Remote

Checksum = Literal["always", "first", "never"]
OnBad = Literal["raise", "substitute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Options of how a loader reads and decodes its images.

    Attributes:
        threads: Threads that decode and transform; None: one per core of this process.
        prefetch: Runs that DALI computes ahead; a run is a batch, or for small raw images a few batches.
        ahead: Runs whose bytes are read ahead of DALI.
        read_threads: Threads that read; one keeps up with local disks, more hide the latency of network storage.
        checksum: Compare every read with the catalog's checksums (`always`), only the first read of each sample
            (`first`), or none (`never`). Without it damaged pixels go into the training unnoticed.
        remote: How to read the shards of a remote catalog; None: whole, into a cache on local disk.
        on_bad: For a sample that is damaged or does not decode: `raise` an error, or `substitute` another draw of the
            epoch, the same one whenever and wherever this position is read.
        max_bad: Most samples to replace; one more raises.
        quarantine: List that `drawstream verify --quarantine` wrote: these samples are replaced without being read.
    """

    threads: int | None = None
    prefetch: int = 2
    ahead: int = 4
    read_threads: int = 1
    checksum: Checksum = "always"
    remote: Remote | None = None
    on_bad: OnBad = "raise"
    max_bad: int = 100
    quarantine: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        at_least_one = ("prefetch", "read_threads") if self.threads is None else ("threads", "prefetch", "read_threads")
        for name in at_least_one:
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1, below=MOST))
        for name in ("ahead", "max_bad"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=0))
        for name, kind in (("checksum", Checksum), ("on_bad", OnBad)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but got {value!r}")
