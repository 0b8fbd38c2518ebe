"""One job, one identity: what decides a result is compared, whatever the job; what does not decide is free."""

import importlib
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from safetensors.torch import load_file, save_file

from drawstream import ArraySource, LoopParts, pack
from drawstream.features import code_identity
from drawstream.search.auto.record import write_distribution
from drawstream.tools import demo
from drawstream.tools.cli.app import main
from drawstream.tools.cli.features import ExtractOptions
from drawstream.tools.cli.search import AutoOptions, SwiftOptions
from drawstream.tools.cli.train import TrainOptions
from drawstream.tools.runs import loader_identity, objective_identity
from drawstream.tools.runs.hooks import Journal
from drawstream.tools.runs.options import deciding
from drawstream.tools.training import Ranks, Recipe, Setup, train
from shared.programs import cli
from shared.refusals import refused

OPTIONS = {"train": TrainOptions, "search swift": SwiftOptions, "search auto": AutoOptions, "features": ExtractOptions}
COMMON = ("--model", "mlp", "--global-batch", 50)
SWIFT = ("--trials", 3, "--round", 1, "--agent", "random", "--min-ess", 0.1, "--transform", "cdf", "--seed", 1)
FEW = ("--confirm-top", 1, "--confirm-seeds", 2, "--epochs", 1)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_says_whether_it_decides(name):
    decides = deciding(OPTIONS[name])
    for changes, told in ((CHANGES[name], True), (BESIDE[name], False)):
        names = {change[0].removeprefix("--").removeprefix("no-").replace("-", "_") for change in changes if change}
        assert {decides[each] for each in names} <= {told}, names
    beside = {
        "json_path",
        "dry_run",
        "device",
        "backend",
        "out",
        "hook",
        "tensorboard",
        "engine",
        "workers",
        "storage",
        "study",
    }
    beside |= {"checksum", "on_bad", "max_bad", "save_every", "max_time", "eval_batch"}
    assert {each for each in decides if not decides[each]} <= beside


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
    return main([str(each) for each in arguments])


def refusal(*arguments):
    """The last line that a command says which is refused."""
    return cli(*arguments, status=2).splitlines()[-1]


CHANGES = {
    "train": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--test", "TEST"), ("--lr", 0.1), ("--global-batch", 100),
        ("--seed", 1), ("--augment", "standard"), ("--augment", "mixup"), ("--epochs", 2), ("--schedule", "linear"),
        ("--weight-decay", 0), ("--amp", "bf16"), ("--no-nesterov",), ("--ema", 0.9),
        ("--sampler", "p"), ("--sampler", "unif", "--budget", 0.5), ("--balance", 0.5), ("--sampler", "balanced"),
        ("--where", "label < 5"),
        ("--track", "TRACK"), ("--track", "TRACK", "--track-grand"), ("--channels", 3),
        ("--dist-bn", "off"), ("--tta", "flip"),
        ("--sampler", "clean", "--refresh", 2), ("--sampler", "clean"),
        ("--sampler", "clean", "--clean-score", "loss"), ("--sampler", "clean", "--per-class"),
    ],
    "search swift": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--start", "OTHER"), ("--lr", 0.1), ("--global-batch", 100),
        ("--seed", 2), ("--augment", "mixup"), ("--augment", "standard"), ("--epochs", 3), ("--trials", 4),
        ("--features", "entropy"), ("--segments", 3), ("--space", "paper10"), ("--kappa", 2.0), ("--round", 2),
        ("--min-ess", 0.2), ("--fine-tune-epochs", 0.5), ("--fine-tune-lr", 0.03), ("--confirm", "scratch"),
        ("--confirm-top", 2), ("--confirm-seeds", 3), ("--weight-decay", 0.1), ("--no-starts",), ("--transform", "cgf"),
        ("--balance", 0.5), ("--where", "label < 5"),
    ],
    "search auto": [
        ("--model", "cnn"), ("--held-out", "TEST"), ("--lr", 0.1), ("--global-batch", 100), ("--seed", 1),
        ("--augment", "standard"), ("--epochs", 2), ("--schedule", "linear"), ("--weight-decay", 0),
        ("--amp", "bf16"), ("--population", 3), ("--interval", 5), ("--beta", 2), ("--permutations", 2),
        ("--count-smoothing", "literal"), ("--estimate", "run"), ("--reward", "loss"), ("--reward-rows", 60),
        ("--second-score",), ("--balance", 0.5), ("--where", "label < 5"),
    ],
    "features": [
        ("--weights", "OTHER"), ("--grad-norm", "logit"), ("--measures", "loss"), ("--crops", 2),
        ("--batch-size", 100), ("--amp", "bf16"), ("--channels-last",), ("--head", "5"), ("--where", "label < 5"),
    ],
}  # fmt: skip
BESIDE = {
    "train": [("--checksum", "first"), ("--max-bad", 3), ("--on-bad", "substitute"), ("--tensorboard",)],
    "search swift": [("--workers", 2), ("--study", "else"), ("--storage", "sqlite:///elsewhere.db")],
    "search auto": [("--tensorboard",)],
    "features": [()],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_finished_job_of_another_identity_is_refused_and_its_own_runs_nothing(name, jobs, tmp_path):
    places = {"TEST": jobs.digits.test, "OTHER": jobs.root / "other.safetensors", "TRACK": tmp_path / "track"}
    before = written(jobs.root)
    for change in CHANGES[name]:
        if change == ("--model", "cnn") and name == "search swift":
            continue  # its start weights do not fit: refused before
        line = refusal(*jobs.commands[name], *(places.get(each, each) for each in change))
        assert "give another output folder" in line and ", not " in line, (change, line)
    for change in BESIDE[name]:
        result = tmp_path / "result.json"
        told = cli(*jobs.commands[name], *change, "--json", result, notes=True)
        assert "this job was finished on 20" in told and "; nothing was run" in told, change
        assert json.loads(result.read_text())["finished_before"] is True
        assert json.loads(result.read_text())["finished"]
    assert written(jobs.root) == before


def written(root):
    """Every file and when it was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


class Stopped(BaseException):
    """As a kill between two steps."""


def kill_after(monkeypatch, steps):
    """End the job in the journal's n-th step; None lets it run."""
    whole = Journal.step

    def step(self, at, total, values):
        whole(self, at, total, values)
        if at == steps:
            raise Stopped

    monkeypatch.setattr(Journal, "step", step)


SLOW = [pytest.param(change, marks=pytest.mark.slow) for change in (("--epochs", 4), ("--lr", 0.2))]


@pytest.mark.parametrize("change", [("--global-batch", 25), ("--held-out", "TEST"), *SLOW])
def test_a_killed_training_goes_on_as_itself_alone(jobs, tmp_path, monkeypatch, change):
    sets = ("--held-out", jobs.digits.held_out)
    command = ("train", jobs.digits.train, "-o", tmp_path / "run", *COMMON, "--epochs", 3, *sets)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        kill_after(patched, 1)
        run(*command)
    line = refusal(*command, *(jobs.digits.test if each == "TEST" else each for each in change))
    name = {"--epochs": "recipe.epochs", "--lr": "recipe.lr"}.get(change[0], change[0][2:].replace("-", "_"))
    assert f"checkpoint.pt: this job was started with {name} " in line
    assert line.count(", not ") == 1
    assert line.endswith("give another output folder (-o)")
    assert run(*command) == 0
    assert len(json.loads((tmp_path / "run/run.json").read_text())["history"]) == 3


CHANGED = [("--fine-tune-lr", 0.05), ("--global-batch", 25), ("--augment", "mixup"), ("--held-out", "TEST")]
CHANGED += [("--start", "OTHER"), ("--trials", 9), ("--fine-tune-epochs", 1)]


def test_a_killed_search_mixes_no_objectives(jobs, tmp_path, monkeypatch):
    command = [*jobs.commands["search swift"], "-o", tmp_path / "s", "--trials", 8, "--fine-tune-epochs", 0.1]
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        kill_after(patched, 4)
        run(*command)
    study = optuna.load_study(study_name="swift", storage=f"sqlite:///{tmp_path}/s/study.db")
    assert sum(trial.value is not None for trial in study.trials) == 4
    places = {"TEST": jobs.digits.test, "OTHER": jobs.root / "other.safetensors"}
    for change in CHANGED:
        words = [*command, *(places.get(each, each) for each in change)]
        line = refusal(*words)
        assert "study 'swift' in sqlite" in line and "this job was started with identity." in line, line
        assert "give another output folder (-o), or in a shared storage another study name" in line
        if change[0] not in ("--fine-tune-lr", "--start"):
            continue
        # The same from another folder, by the shared storage.
        shared = ("-o", tmp_path / "else", "--storage", f"sqlite:///{tmp_path}/s/study.db")
        assert refusal(*words, *shared) == line
    assert len(study.trials) == 4 + sum(trial.value is None for trial in study.trials)
    assert run(*command, "--workers", 1, "--tensorboard") == 0
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert sum(trial["value"] is not None for trial in record["trials"]) == 8
    whole = json.loads((tmp_path / "s/sampler.json").read_text())["provenance"]["search"]["identity"]
    assert whole == record["identity"]


JUDGE = "FACTOR = {factor}\n\n\ndef judge(probabilities, trial):\n    return FACTOR * trial.seed / 2**40\n"


def test_an_objective_counts_by_the_source_of_its_module(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (*jobs.commands["search swift"][:3], "-o", tmp_path / "s", "--catalog", jobs.digits.train, *SWIFT)
    for name, factor in (("first_judge", 1), ("second_judge", 2)):
        Path(f"{name}.py").write_text(JUDGE.format(factor=factor))
    assert run(*command, "--objective", "first_judge:judge", "--confirm-seeds", 2) == 0
    line = refusal(*command, "--objective", "second_judge:judge", "--confirm-seeds", 2)
    assert "objective.objective.name 'first_judge:judge', not 'second_judge:judge'" in line
    assert "objective.objective.source" in line
    import first_judge

    before = objective_identity(first_judge.judge)
    Path("first_judge.py").write_text(JUDGE.format(factor=22))  # the function itself is as it was
    assert objective_identity(first_judge.judge) != before


def test_weights_of_another_catalog_are_refused(jobs, tmp_path):
    rows = len(Setup(jobs.digits.train, "mlp").data)
    for name, catalog in (("mine", Setup(jobs.digits.train, "mlp").data.fingerprint), ("other", "f" * 32)):
        write_distribution(tmp_path / f"{name}.parquet", np.arange(1, rows + 1), catalog=catalog, provenance={})
    command = ("train", jobs.digits.train, *COMMON, "--epochs", 1)
    assert run(*command, "-o", tmp_path / "a", "--sampler", tmp_path / "mine.parquet") == 0
    line = refusal(*command, "-o", tmp_path / "b", "--sampler", tmp_path / "other.parquet")
    assert "other.parquet: weights of catalog ffffffffffff, but this is " in line
    # Contents count, not paths: the same weights elsewhere are the same job.
    (tmp_path / "mine.parquet").rename(tmp_path / "moved.parquet")
    assert "nothing was run" in cli(*command, "-o", tmp_path / "a", "--sampler", tmp_path / "moved.parquet", notes=True)


def test_the_global_batch_counts_and_not_how_many_ranks_share_it(digits):
    alone = Setup(digits.train, "mlp", global_batch=64)
    shared = Setup(digits.train, "mlp", global_batch=64, ranks=Ranks(1, 4))
    mine, theirs = (loader_identity(setup.training_loader()) for setup in (alone, shared))
    assert mine == theirs
    assert mine["global_batch"] == 64


def test_a_benchmark_of_other_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.PLANS, "digits", replace(demo.PLANS["digits"], recipe=Recipe(2, 0.05)))
    assert run("bench", "noise", "--data", "digits", "--noise", 0, "--methods", "uniform", "-o", tmp_path / "b") == 0
    again = ("bench", "noise", "--data", "digits", "--noise", 0, "--methods", "uniform", "-o", tmp_path / "b")
    assert "noise.json: this job was finished on " in cli(*again, "--json", tmp_path / "r.json", notes=True)
    assert json.loads((tmp_path / "r.json").read_text())["finished_before"] is True
    folder = tmp_path / "b/noise-0/seed-0"
    record = json.loads((folder / "data.json").read_text())
    record["identity"]["data"] = "fashion-mnist"
    (folder / "data.json").write_text(json.dumps(record))
    assert "data.json: this job was started with data 'fashion-mnist', not 'digits'" in refusal(*again)
    (folder / "data.json").unlink()
    assert "started by an earlier version, which kept no identity" in refusal(*again)


LIBRARY = """
def score(probabilities, trial, factor=1):
    return factor * trial.seed / 2**40

class Judge:
    def __init__(self, factor):
        self._factor = factor
    def __call__(self, probabilities, trial):
        return self._factor * trial.seed / 2**40
    def judge(self, probabilities, trial):
        return self(probabilities, trial)

def closed(factor):
    return lambda probabilities, trial: factor * trial.seed / 2**40
"""
MINE = """
from functools import partial
import judges_of_others as others

FACTOR = {factor}
by_partial = partial(others.score, factor=FACTOR)
by_instance = others.Judge(FACTOR)
by_method = others.Judge(FACTOR).judge
by_closure = others.closed(FACTOR)
"""


@pytest.mark.parametrize("name", ["by_partial", "by_instance", "by_method", "by_closure"])
def test_what_a_spec_names_counts_by_its_module_and_its_arguments(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    Path("judges_of_others.py").write_text(LIBRARY)
    found = []
    for module, factor in (("mine_one", 1), ("mine_two", 1), ("mine_three", 2)):
        Path(f"{module}.py").write_text(MINE.format(factor=factor))
        objective = getattr(importlib.import_module(module), name)
        found.append((code_identity(objective), code_identity(objective, f"{module}:{name}")))
    (one, named), (two, _), (three, named_three) = found
    assert one == two and one["source"] and one["arguments"]
    assert three["source"] == one["source"] and three["arguments"] != one["arguments"]
    assert named_three["source"] != named["source"] != one["source"]
    monkeypatch.delitem(sys.modules, "judges_of_others")


def test_values_in_arguments_are_equal_where_they_say_the_same():
    def identity(**held):
        return code_identity(partial(run, **held)).get("arguments")

    loss = torch.nn.CrossEntropyLoss
    same = [lambda: float("nan"), lambda: {3, 1, 2}, lambda: np.arange(3), lambda: torch.ones(2), lambda: Path("a")]
    same += [lambda: torch.Generator(), lambda: loss(label_smoothing=0.1), lambda: Recipe(3), lambda: np.float32(2)]
    for make in same:
        assert identity(value=make()) == identity(value=make())
        json.dumps(identity(value=make()))
    other = [0, 1, 1.5, "a", [1], [1, 2], np.arange(3), np.arange(4), torch.ones(2), np.add, np.multiply, run]
    other += [loss(label_smoothing=0.1), loss(), loss(reduction="sum"), Recipe(3), Recipe(4), b"a", b"b"]
    assert len({json.dumps(identity(value=each)) for each in other}) == len(other)
    around: list = [1]
    around.append(around)
    assert identity(value=around) == identity(value=around)


def test_a_loss_of_torch_counts_with_its_smoothing(digits, tmp_path):
    setup = Setup(digits.train, "mlp", global_batch=250)

    class Rows(torch.nn.CrossEntropyLoss):
        def forward(self, logits, batch, _epoch):
            return super().forward(logits, batch.labels)

    def go(smoothing):
        criterion = Rows(reduction="none", label_smoothing=smoothing)
        train(
            setup.build(0),
            setup.training_loader(),
            Recipe(2),
            checkpoint=tmp_path / "c.pt",
            parts=LoopParts(criterion=criterion),
        )

    go(0.1)
    go(0.1)
    refused(r"loss.arguments.label_smoothing 0.1, not 0.2", go, 0.2)


def test_a_default_that_is_typed_is_the_same_job(jobs, tmp_path):
    command = ("train", jobs.digits.train, "-o", tmp_path / "p", *COMMON, "--epochs", 1, "--sampler", "p")
    assert run(*command) == 0
    assert "nothing was run" in cli(*command, "--uniform-epochs", 1, notes=True)
    assert run(*command, "--uniform-epochs", 2) == 2


@pytest.mark.parametrize(
    ("name", "file", "record"),
    [
        ("train", "train/last.safetensors", "run.json"),
        ("train", "train/best.safetensors", "run.json"),
        ("search swift", "swift/sampler.json", "search.json"),
        ("search auto", "auto/schedule.arrow", "auto.json"),
        ("search auto", "auto/distribution.parquet", "auto.json"),
    ],
)
def test_a_finished_job_whose_file_is_gone_does_not_say_that_it_is_there(jobs, tmp_path, name, file, record):
    folder = tmp_path / "copy"
    shutil.copytree(jobs.root / Path(file).parent, folder)
    command = [*jobs.commands[name], "-o", folder]
    whole = (folder / Path(file).name).read_bytes()
    (folder / Path(file).name).unlink()
    line = refusal(*command)
    assert f"{Path(file).name} is missing, but {record} says that its job is finished: remove it and run again" in line
    (folder / record).unlink()
    assert run(*command) == 0
    assert len((folder / Path(file).name).read_bytes()) == pytest.approx(len(whole), rel=0.1)


def test_the_table_of_a_finished_training_is_where_it_is_asked_for(jobs, tmp_path):
    command = ("train", jobs.digits.train, "-o", tmp_path / "t", *COMMON, "--epochs", 1, "--track")
    assert run(*command, tmp_path / "a") == 0
    assert run(*command, tmp_path / "a") == 0
    line = refusal(*command, tmp_path / "b")
    assert "this training is finished, and its --track was" in line and line.endswith("name that folder, or copy it")
    (tmp_path / "a").rename(tmp_path / "b")
    assert run(*command, tmp_path / "b") == 0
    next((tmp_path / "b").glob("*.parquet")).unlink()
    assert ".parquet is missing, but run.json says" in refusal(*command, tmp_path / "b")
