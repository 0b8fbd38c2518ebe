"""One job, one identity: what decides a result is compared, whatever the job; what does not decide is free."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from safetensors.torch import load_file, save_file

from drawstream.pipeline import ArraySource
from drawstream.pipeline.pack import pack
from drawstream.tools import cli

# Every option of the four jobs that go on, or are found finished: True where another value may give another result.
SHARED = {"json_path": False, "dry_run": False, "device": False, "out": False, "help": False}
WATCHED = {"hook": False, "tensorboard": False}
TRAINED = {"catalog": True, "model": True, "held_out": True, "lr": True, "batch_size": True, "seed": True}
TRAINED |= {"augment": True, "epochs": True}
DECIDES = {
    "train": {
        **SHARED, **WATCHED, **TRAINED, "schedule": True, "weight_decay": True, "amp": True, "test": True,
        "sampler": True, "budget": True, "paper": True, "warmup": True, "table": True, "column": True, "join": True,
        "frozen": True, "mode": True, "crop_filter": True, "score_weights": True, "score_model": True,
        "crop_factor": True, "quarantine": True,
        "track": True,  # whether, not where
        # These decide what becomes of a bad image: a run that was stopped by one goes on with others.
        "checksum": False, "on_bad": False, "max_bad": False,
    },
    "search swift": {
        **SHARED, **WATCHED, **TRAINED, "table": True, "join": True, "start": True, "objective": True, "recipe": True,
        "columns": True, "transform": True, "space": True, "segments": True, "agent": True, "trials": True,
        "batch": True, "starts": True, "min_ess": True, "kappa": True, "fine_tune_epochs": True, "fine_tune_lr": True,
        "confirm": True, "confirm_top": True, "confirm_seeds": True,
        "workers": False, "engine": False, "storage": False, "study": False,
    },
    "search auto": {
        **SHARED, **WATCHED, **TRAINED, "schedule": True, "weight_decay": True, "amp": True, "exploration": True,
        "population": True, "interval": True, "explore_after": True, "permutations": True, "beta": True,
        "smoothing": True, "estimate": True, "reward": True, "reward_rows": True, "second_score": True,
        "stacked": True,
    },
    "features": {
        **SHARED, "catalog": True, "weights": True, "model": True, "grad_norm": True, "head": True, "measures": True,
        "measure": True, "crops": True, "crop_seed": True, "crop_scale": True, "crop_ratio": True, "crop_flip": True,
        "batch_size": True, "amp": True, "channels_last": True,
        "grad_memory": True,  # it divides the batches of full gradients
        "engine": False,
    },
}  # fmt: skip
COMMON = ("--model", "mlp", "--batch-size", 50)
SWIFT = ("--trials", 3, "--batch", 1, "--agent", "random", "--min-ess", 0.1, "--transform", "cdf", "--seed", 1)
FEW = ("--confirm-top", 1, "--confirm-seeds", 2, "--epochs", 1)


@pytest.mark.parametrize("name", DECIDES)
def test_of_every_option_it_is_known_whether_it_decides(name):
    command = typer.main.get_command(cli.app)
    for word in (*name.split(), *(["extract"] if name == "features" else [])):
        command = command.commands[word]
    assert {each.name for each in command.params} | {"help"} == set(DECIDES[name])


@pytest.fixture(scope="module")
def jobs(digits, tmp_path_factory):
    """Each job, finished: its command without what the tests change."""
    root = tmp_path_factory.mktemp("jobs")
    start, table = root / "train/last.safetensors", root / "features"
    sets = ("--held-out", digits.held_out)
    state = {name: value * 2 for name, value in load_or_train(root, digits).items()}
    save_file(state, root / "other.safetensors")
    other = pack(ArraySource(np.zeros((60, 8, 8), np.uint8), np.arange(60) % 10, classes()), root / "other")
    commands = {
        "train": ("train", digits.train, "-o", root / "train", *COMMON, "--epochs", 1, *sets),
        "features": ("features", digits.train, "-o", table, "--model", "mlp", "--weights", start),
        "search swift": (
            *("search", "swift", table, "-o", root / "swift", "--catalog", digits.train, *COMMON, *sets),
            *("--start", start, *SWIFT, *FEW),
        ),
        "search auto": (
            *("search", "auto", digits.train, "-o", root / "auto", *COMMON, "--epochs", 1, *sets),
            *("--population", 2, "--exploration", "random", "--reward-rows", 50),
        ),
    }
    for command in commands.values():
        assert run(*command) == 0
    return SimpleNamespace(commands=commands, root=root, digits=digits, other=other.train)


def classes():
    return [str(digit) for digit in range(10)]


def load_or_train(root, digits):
    assert run("train", digits.train, "-o", root / "w", *COMMON, "--epochs", 1) == 0
    return load_file(root / "w/last.safetensors")


def run(*arguments):
    return cli.main([str(each) for each in arguments])


CHANGES = {
    "train": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--test", "TEST"), ("--lr", 0.1), ("--batch-size", 100),
        ("--seed", 1), ("--augment", "standard"), ("--augment", "mixup"), ("--epochs", 2), ("--schedule", "linear"),
        ("--weight-decay", 0), ("--amp", "bf16"), ("--sampler", "p"), ("--sampler", "unif", "--budget", 0.5),
        ("--track", "TRACK"),
    ],
    "search swift": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--start", "OTHER"), ("--lr", 0.1), ("--batch-size", 100),
        ("--seed", 2), ("--augment", "mixup"), ("--augment", "standard"), ("--epochs", 3), ("--trials", 4),
        ("--features", "entropy"), ("--segments", 3), ("--space", "paper10"), ("--kappa", 2.0), ("--batch", 2),
        ("--min-ess", 0.2), ("--fine-tune-epochs", 0.5), ("--fine-tune-lr", 0.03), ("--confirm", "scratch"),
        ("--confirm-top", 2), ("--confirm-seeds", 3), ("--no-starts",), ("--transform", "cgf"),
    ],
    "search auto": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--lr", 0.1), ("--batch-size", 100), ("--seed", 1),
        ("--augment", "standard"), ("--epochs", 2), ("--schedule", "linear"), ("--weight-decay", 0),
        ("--amp", "bf16"), ("--population", 3), ("--interval", 5), ("--beta", 2), ("--permutations", 2),
        ("--smoothing", "literal"), ("--estimate", "run"), ("--reward", "loss"), ("--reward-rows", 60),
        ("--second-score",), ("--stacked",),
    ],
    "features": [
        ("--weights", "OTHER"), ("--grad-norm", "logit"), ("--measures", "loss"), ("--crops", 2),
        ("--batch-size", 100), ("--amp", "bf16"), ("--channels-last",), ("--head", "5"),
    ],
}  # fmt: skip
BESIDE = {
    "train": [("--checksum", "first"), ("--max-bad", 3), ("--on-bad", "substitute"), ("--tensorboard",)],
    "search swift": [("--workers", 2), ("--study", "else"), ("--storage", "sqlite:///elsewhere.db")],
    "search auto": [("--tensorboard",)],
    "features": [()],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_finished_job_of_another_identity_is_refused_and_its_own_runs_nothing(name, jobs, capsys, tmp_path):
    places = {"TEST": jobs.digits.test, "OTHER": jobs.root / "other.safetensors", "TRACK": tmp_path / "track"}
    before = written(jobs.root)
    for change in CHANGES[name]:
        if change == ("--model", "cnn") and name == "search swift":
            continue  # its start weights do not fit: refused before
        capsys.readouterr()
        assert run(*jobs.commands[name], *(places.get(each, each) for each in change)) == 2, change
        (line,) = capsys.readouterr().err.splitlines()
        assert "give another output folder" in line and ", not " in line, (change, line)
    for change in BESIDE[name]:
        result = tmp_path / "result.json"
        assert run(*jobs.commands[name], *change, "--json", result) == 0, change
        told = capsys.readouterr().err
        assert "this job was finished on 20" in told and "; nothing was run" in told, change
        assert json.loads(result.read_text())["finished_before"] is True
        assert json.loads(result.read_text())["finished"]
    assert written(jobs.root) == before


def written(root):
    """Every file and when it was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
