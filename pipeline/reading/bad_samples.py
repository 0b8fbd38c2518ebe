"""Samples that cannot be used: their names, counts and lists, and the limit of a loader."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.reading.options import Reading
from drawstream.pipeline.reading.quarantine import read_quarantine
from drawstream.pipeline.shards import Catalog
from drawstream.samplers import DrawstreamError

LEAVE_OUT = (
    "replace it, or list all such images with `drawstream verify CATALOG --quarantine LIST.json` and leave them out "
    "with `--quarantine LIST.json`"
)


class BadSampleError(DrawstreamError, RuntimeError):
    """A sample cannot be read as the catalog describes it.

    Args:
        message: Reason, with shard and key.
        sample_id: Its row in the catalog.
    """

    def __init__(self, message: str, sample_id: int) -> None:
        super().__init__(message)
        self.sample_id = sample_id

    def __reduce__(self) -> tuple[type["BadSampleError"], tuple[str, int]]:
        """Both arguments cross processes."""
        return type(self), (str(self), self.sample_id)


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that a loader replaced.

    Attributes:
        sample_id: Row in the catalog.
        key: Its name.
        shard: Path of its shard, relative to the catalog.
        reason: What is wrong with it.
    """

    sample_id: int
    key: str
    shard: str
    reason: str


def name_sample(catalog: Catalog, sample: int, /) -> str:
    """Key, row and shard of a sample, for messages."""
    shard = catalog.shard_name(int(catalog.shard[sample]))
    return f"sample {catalog.key(sample)!r} ({catalog.row_name(sample)}) of {shard}"


class BadSamples:
    """Bad samples that a loader knows: those of a quarantine list, and those it met. Safe with threads.

    Raises:
        ValueError: The list is not this catalog's, or no good sample is left.
    """

    def __init__(self, catalog: Catalog, reading: Reading) -> None:
        listed = reading.quarantine
        self._known = np.empty(0, np.int64) if listed is None else read_quarantine(listed, catalog)
        if len(self._known) >= len(catalog):
            raise ValueError(
                f"the quarantine list holds all {len(catalog)} samples of {catalog.path}: restore the data"
            )
        self._catalog = catalog
        self._reading = reading
        self._met: dict[int, BadSample] = {}
        self._lock = Lock()

    @property
    def met(self) -> tuple[BadSample, ...]:
        """The bad samples met so far, in the order of their rows; without those of the quarantine list."""
        with self._lock:
            return tuple(self._met[sample] for sample in sorted(self._met))

    def known(self, samples: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Return the indices of the bad ones among samples (n,), int64."""
        return np.flatnonzero(np.isin(samples, self._known)) if len(self._known) else self._known

    def add(self, errors: Iterable[BadSampleError], /) -> None:
        """Note bad samples; raise the first that is not to be replaced, or exceeds the limit."""
        for error in errors:
            if self._reading.on_bad == "raise":
                raise error
            with self._lock:
                sample = error.sample_id
                if sample in self._met:
                    continue
                most = self._reading.max_bad
                if len(self._met) >= most:
                    raise BadSampleError(
                        f"{error}; {most} other bad samples were replaced already, and `max_bad` allows no more",
                        sample,
                    )
                shard = self._catalog.shards[int(self._catalog.shard[sample])].path
                self._met[sample] = BadSample(sample, self._catalog.key(sample), shard, str(error))
                self._known = np.union1d(self._known, np.array([sample]))

    def exhausted(self, sample: int, attempts: int, /) -> BadSampleError:
        """Return the error for a sample without a replacement."""
        name = name_sample(self._catalog, sample)
        return BadSampleError(
            f"{name} is bad, as were {attempts} other draws of its epoch: restore the data, or draw from other rows",
            sample,
        )
