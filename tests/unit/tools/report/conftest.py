"""Records as jobs leave them, for the tests of reports."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.features import FeatureTable
from drawstream.features.table.table import part_path, write_part
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.search import Proposals, search_swift
from drawstream.tools.runs.record import write_record

ROWS = 400


def search(folder: Path, *, prefers_clean: bool, features: Sequence[str] = ("loss", "entropy")) -> None:
    """Pack digits with label noise, write features that betray it, and search with a numeric objective."""
    digits = load_digits()
    images = (digits.images[:ROWS] * 15.9375).astype(np.uint8)
    data = pack(ArraySource(images, digits.target[:ROWS], name="digits"), folder / "data", label_noise=0.4).train
    catalog = Catalog.open(data)
    rng = np.random.default_rng(0)
    noisy = catalog.label != catalog.clean_label
    columns = {"sample_id": np.arange(ROWS), "crop": np.zeros(ROWS, np.int32), "label": catalog.label}
    columns["loss"] = (rng.gamma(2, 0.3, ROWS) + 2.5 * noisy).astype(np.float32)
    columns["entropy"] = (rng.gamma(2, 0.5, ROWS) + ~noisy).astype(np.float32)
    if "loss" not in features:
        columns = {name: values for name, values in columns.items() if name not in ("loss", "entropy")}
    columns |= {name: rng.random(ROWS).astype(np.float32) - noisy for name in features if name not in columns}
    (folder / "features").mkdir()
    notes = {"catalog": catalog.fingerprint, "parts": 1, "model": "none"}
    write_part(part_path(folder / "features", 0), columns, notes)
    table = FeatureTable.open(folder / "features")

    def objective(probabilities, trial):
        share = float(probabilities[~noisy].sum())
        return 50 + 40 * (share if prefers_clean else 0.0) + 0.01 * (trial.seed % 7)

    found = search_swift(
        table.columns(*features),
        objective,
        features=features,
        transform="cdf",
        mass=None,
        proposals=Proposals(8, "random", min_ess=0.2),
    )
    found.sampler.save(folder / "sampler.json")
    trials = [
        {"number": t.number, "params": None, "value": t.value, "state": t.state, "ess": t.ess} for t in found.trials
    ]
    trials.append({"number": len(trials), "params": None, "value": None, "state": "pruned", "ess": None})
    content = {"seed": 0, "catalog": data, "features": folder / "features", "sampler": folder / "sampler.json"}
    content |= {"winner": found.winner, "message": found.message, "trials": trials, "seconds": 1.0}
    content["confirmation"] = [{"candidate": c.candidate, "seed": c.seed, "value": c.value} for c in found.confirmation]
    write_record(folder / "search.json", "search", content)


@pytest.fixture(scope="session")
def make_search() -> Callable[..., None]:
    """The function that packs digits and leaves a search of them in a folder."""
    return search


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose sampler prefers right labels; not to be changed."""
    folder = tmp_path_factory.mktemp("searched")
    search(folder, prefers_clean=True)
    return folder
