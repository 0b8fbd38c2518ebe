"""What every test may rely on: IEEE floats, whatever a job run in this process before it has set.

Hypothesis tries the same examples in every run, so that a change is not stopped by what it did not touch; new ones are
tried by `make soak`, which sets HYPOTHESIS_PROFILE=explore.
"""

import os
import sys

import pytest
from hypothesis import settings

from shared.samples import LABELS, PIXELS

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(autouse=True)
def ieee_floats():
    """Jobs flush denormals where they train; the command line gives IEEE floats back, a function of a job does not."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="module")
def one_thread():
    """Let torch add in the order of one thread, as started programs do."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_run():
    """Write the record of a run of five epochs, as a training leaves it."""
    from drawstream.pipeline.shards import Catalog
    from drawstream.tools.runs.record import write_record

    def act(folder, method="uniform", seed=0, last=70.0, *, best=None, catalog=None, **changed):
        """With `best`, test accuracy peaks at epoch 1; the held-out set always chooses epoch 2."""
        test = [last - 4 + i for i in range(5)] if best is None else [40.0, best, best - 0.5, last + 0.125, last]
        history = [
            {"epoch": i, "loss": 1.0, "lr": 0.1, "accuracy": {"held_out": h, "test": t}, "seconds": 1.0, "wait": 0.0}
            for i, (h, t) in enumerate(zip([42.0, 60.0, 95.0, 70.0, 65.0], test, strict=True))
        ]
        recipe = {"epochs": 5, "lr": 0.1, "seed": seed, **changed.pop("recipe", {})}
        content = {"method": method, "seed": seed, "model": "mlp", "catalog": catalog or folder / "absent"}
        content |= {"recipe": recipe, "global_batch": 32, "sampling": {"budget": 1.0}, "augment": "none"}
        content |= {"catalog_fingerprint": Catalog.open(catalog).fingerprint if catalog else f"data-{seed}"}
        result = {"set": "test", "last": last, "best": max(test), "best_epoch": 2}
        result["metrics"] = {"top1": last, "top5": last + 20, "balanced": last - 3}
        result["classes"] = {"cat": last + 2, "dog": last - 2, "owl": None}
        content |= {"history": history, "seconds": 5.0, "wait_share": 0.0, "result": result, **changed}
        return write_record(folder / "run.json", "train", content)

    return act


@pytest.fixture(scope="session")
def make_search():
    """Pack digits with wrong labels, write features that betray them, and search over them with a numeric objective."""
    import numpy as np

    from drawstream.features.table import FeatureTable
    from drawstream.features.table.part import part_path, write_part
    from drawstream.pipeline.shards import Catalog
    from drawstream.pipeline.shards.pack import pack
    from drawstream.pipeline.sources import ArraySource
    from drawstream.search.swift import Proposals, search_swift
    from drawstream.tools.runs.record import write_record

    def act(folder, seed=0, *, rows=400, prefers_clean=True, features=("loss", "entropy"), classes=()):
        images, labels = PIXELS[:rows], LABELS[:rows]
        data = pack(ArraySource(images, labels, classes, name="digits"), folder / "data", label_noise=0.4).train
        catalog, rng = Catalog.open(data), np.random.default_rng(seed)
        noisy = catalog.label != catalog.clean_label
        known = {"loss": rng.gamma(2, 0.3, rows) + 2.5 * noisy, "entropy": rng.gamma(2, 0.5, rows) + ~noisy}
        columns = {"sample_id": np.arange(rows), "crop": np.zeros(rows, np.int32), "label": catalog.label}
        names = dict.fromkeys([*known, *features] if "loss" in features else features)
        columns |= {each: known.get(each, rng.random(rows) - noisy).astype(np.float32) for each in names}
        (folder / "features").mkdir()
        notes = {"catalog": catalog.fingerprint, "parts": 1, "model": "none"}
        write_part(part_path(folder / "features", 0), columns, notes)

        def objective(probabilities, trial):
            share = float(probabilities[~noisy].sum())
            return 50 + 40 * (share if prefers_clean else 0.0) + 0.01 * (trial.seed % 7)

        table = FeatureTable.open(folder / "features").columns(*features)
        options = {"transform": "cdf", "mass": None, "proposals": Proposals(8, "random", min_ess=0.2)}
        found = search_swift(table, objective, features=features, **options)
        found.sampler.save(folder / "sampler.json")
        trials = [
            {"number": t.number, "params": None, "value": t.value, "state": t.state, "ess": t.ess, "seconds": 1.0}
            for t in found.trials
        ]
        trials.append({"number": len(trials), "params": None, "value": None, "state": "pruned", "ess": None})
        guard = [{"candidate": c.candidate, "seed": c.seed, "value": c.value} for c in found.confirmation]
        content = {"seed": seed, "catalog": data, "features": folder / "features", "sampler": folder / "sampler.json"}
        content |= {"winner": found.winner, "message": found.message, "trials": trials, "confirmation": guard}
        write_record(folder / "search.json", "search", content | {"seconds": 1.0})
        return data

    return act
