"""cleanlab's ranking of wrong labels, in a process of an environment that has it (AGPL: never a dependency).

`find_label_issues` lists the rows that it holds to be wrong, the worst first; the others follow by the same score, so
that all rows are ranked.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table import FeatureTable

__all__ = ["cleanlab_score", "probabilities"]

_PROGRAM = """
import sys
import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
folder, by = sys.argv[1:]
labels, p = np.load(folder + "/labels.npy"), np.load(folder + "/probabilities.npy")
quality = get_label_quality_scores(labels, p, method=by)
listed = find_label_issues(labels, p, return_indices_ranked_by=by, n_jobs=1)
rest = np.setdiff1d(np.argsort(quality, kind="stable"), listed, assume_unique=True)
order = np.concatenate([listed, rest[np.argsort(quality[rest], kind="stable")]])
score = np.empty(len(labels))
score[order] = np.arange(len(labels), 0, -1) / len(labels)
np.save(folder + "/score.npy", score)
"""


def probabilities(table: FeatureTable, classes: int, /) -> NDArray[np.float64]:
    """Return the averaged probabilities of a tracked table that keeps all classes, float64 (rows, C)."""
    names = [f"other_{c}" for c in range(classes)]
    columns = table.columns("margin", "other", *names)
    found = np.stack([columns[name] for name in names], 1).astype(np.float64)
    found[np.arange(len(found)), table.label] = columns["other"].astype(np.float64) - columns["margin"]
    return np.maximum(found, 0)


def cleanlab_score(
    environment: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float64], /, *, by: str
) -> NDArray[np.float64]:
    """Return the score of each row, float64 (rows,), in (0, 1]; the higher, the more suspect.

    Args:
        environment: Virtual environment with cleanlab.
        labels: Given labels, (rows,).
        probabilities: Out-of-sample predictions, (rows, C).
        by: `self_confidence` or `normalized_margin`.

    Raises:
        ValueError: There is no such environment, or no cleanlab in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "labels.npy", labels)
        np.save(Path(folder) / "probabilities.npy", probabilities / probabilities.sum(1, keepdims=True))
        python = environment / "bin" / "python"
        try:
            done = subprocess.run(  # noqa: S603
                [str(python), "-c", _PROGRAM, folder, by], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise ValueError(
                f"{python} does not start ({error.strerror}): give --peers-env an environment with cleanlab"
            ) from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"cleanlab in {environment} failed: {last}: pip install cleanlab in it")
        found: NDArray[np.float64] = np.load(Path(folder) / "score.npy")
        return found
