"""Short rehearsals of a job's own code in a folder of its own, without torch: packing and indexing need none."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["LIMIT", "Enough", "rehearsed"]

LIMIT = 3.0  # seconds of a probe, after the first steps


class Enough(BaseException):
    """Ends a rehearsal; no handler of the job takes it for an error of its own."""


@contextmanager
def rehearsed(out: Path, names: Sequence[str] = (), /) -> Iterator[Path]:
    """A temporary folder in place of `out`, with copies of what the job would find there.

    Errors that name the temporary folder name `out` instead.

    Args:
        out: Folder of the job.
        names: Patterns of the files that it looks at when it starts.
    """
    with TemporaryDirectory(prefix="drawstream-dry-run-") as name:
        scratch = Path(name)
        for found in (path for pattern in names for path in out.glob(pattern)):
            shutil.copy2(found, scratch / found.name)
        try:
            yield scratch
        except ValueError as error:
            if str(scratch) not in str(error):
                raise
            raise type(error)(str(error).replace(str(scratch), str(out))) from None
