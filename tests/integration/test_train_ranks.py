"""Training, searches and methods under torchrun: the number of ranks changes nothing but the order of sums."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from drawstream import ArraySource, Schedule, pack
from drawstream.pipeline.shards import claimed
from shared.processes import finish, free_port, kill, run, start, torchrun, wait_until
from shared.programs import cli
from shared.samples import LABELS, PIXELS, pack_digits


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits") / "data", 503, holdout=101)


def train(data, out, processes, *options):
    """Three epochs; 402 rows leave a last batch of 18, which three ranks share with fill."""
    command = ["train", data.train, "-o", out, "--held-out", data.holdout, "--model", "mlp", "--epochs", 3]
    command += ["--global-batch", 24, "--seed", 7, *options]
    told, _ = run(*torchrun(processes, "-m", "drawstream.tools.cli", *command))
    assert told.count("top-1") == 1  # rank 0 speaks
    return json.loads((out / "run.json").read_text()), load_file(out / "last.safetensors")


def test_two_ranks_train_as_one(data, tmp_path):
    alone, weights = train(data, tmp_path / "1", 1)
    for ranks in (2, 3):
        record, shared = train(data, tmp_path / str(ranks), ranks)
        assert record["stream"] == alone["stream"]
        for name, value in weights.items():
            np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-4)
        losses = [[epoch["loss"] for epoch in run["history"]] for run in (record, alone)]
        np.testing.assert_allclose(*losses, rtol=0.02)  # the fill counts in the reported loss only
        accuracy = [run["history"][-1]["accuracy"]["held_out"] for run in (record, alone)]
        assert abs(accuracy[0] - accuracy[1]) < 1.5
        metrics, own = record["loader"], alone["loader"]
        fill = metrics["images"] - own["images"]
        assert own["images"] == 3 * 402 and 0 <= fill < 3 * ranks  # of all ranks, with fill
        assert metrics["batches"] == ranks * own["batches"] and metrics["bytes_read"] >= own["bytes_read"]


@pytest.mark.slow
def test_two_ranks_train_on_a_mixture_as_one(data, tmp_path):
    file = tmp_path / "mixture.toml"
    file.write_text(
        f"""draws = 240
        [[sources]]
        catalog = "{data.train}"
        share = 0.6
        sampler = "p"
        budget = 0.2
        [[sources]]
        catalog = "{data.holdout}"
        share = [[0, 0.4], [0.5, 0.1]]"""
    )
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        command = ["train", "--mixture", file, "-o", out, "--model", "mlp", "--epochs", 4, "--global-batch", 24]
        run(*torchrun(ranks, "-m", "drawstream.tools.cli", *command))
        found.append((json.loads((out / "run.json").read_text()), load_file(out / "last.safetensors")))
    (alone, weights), (record, shared) = found
    assert record["stream"] == alone["stream"] and record["identity"] == alone["identity"]
    for one, other in zip(record["sources"], alone["sources"], strict=True):
        assert one["draws"] == other["draws"] and one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert record["count_entropy"] == alone["count_entropy"]  # the learning source drew the same rows
    for name, value in weights.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi", "value"])
def test_other_labels_have_the_metrics_of_one_rank(tmp_path, kind):
    """Losses and metrics are those over all rows, fill left out: 402 rows in steps of 24, 101 held out."""
    marks = np.stack([LABELS[:503] % 2 == 0, LABELS[:503] > 4], 1).astype(np.uint8)
    labels = marks if kind == "multi" else PIXELS[:503].mean((1, 2)) / 255
    packed = pack(ArraySource(PIXELS[:503], labels), tmp_path / "data", holdout=101)
    found = []
    for ranks in (1, 2):
        command = ["train", packed.train, "-o", tmp_path / str(ranks), "--held-out", packed.holdout, "--model", "mlp"]
        run(*torchrun(ranks, "-m", "drawstream.tools.cli", *command, "--epochs", 2, "--global-batch", 24))
        found.append(json.loads((tmp_path / str(ranks) / "run.json").read_text()))
    alone, shared = ([epoch["metrics"]["held_out"] for epoch in record["history"]] for record in found)
    for one, two in zip(alone, shared, strict=True):
        assert two == pytest.approx(one, rel=0.01)
    classes = [list(record["result"]["classes"].values()) for record in found]
    assert classes[1] == pytest.approx(classes[0], rel=0.01)


@pytest.mark.slow
def test_a_run_of_two_ranks_that_is_killed_goes_on_with_three_and_one(data, tmp_path, monkeypatch):
    """The global batch is the same; each start is killed behind its first epoch."""
    (tmp_path / "killing.py").write_text(KILLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    alone, weights = train(data, tmp_path / "alone", 1)
    for ranks in (2, 3):
        with pytest.raises(AssertionError, match="killed behind epoch"):
            train(data, tmp_path / "run", ranks, "--hook", "killing:Killing")
        assert not (tmp_path / "run/run.json").exists()
    record, shared = train(data, tmp_path / "run", 1)
    assert len(record["history"]) == 3
    assert record["identity"] == alone["identity"]
    for name, value in weights.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-4)


KILLING = """
class Killing:
    def __init__(self, out): pass
    def begin(self, kind, settings): pass
    def end(self, record): pass
    def step(self, step, total, values): raise ValueError(f"killed behind epoch {step}")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_without_a_master_ends_at_a_signal(number):
    group = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    rank = start("-c", WAITS, env=group)
    assert rank.stdout.readline() == "joining\n"
    time.sleep(1)
    kill(rank, number)
    assert rank.returncode == -number


WAITS = """
from drawstream.tools.cli.signals import signals_as_exceptions
from drawstream.tools.training.ranks import join_ranks
with signals_as_exceptions():
    print("joining", flush=True)
    join_ranks("cpu")
"""


def test_all_ranks_hear_that_the_folder_is_being_written(data, tmp_path):
    """Started by hand: torchrun ends the others as soon as it sees one fail, which may not have spoken by then."""
    command = ["-m", "drawstream.tools.cli", "train", data.train, "-o", tmp_path / "run", "--model", "mlp"]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with claimed(tmp_path / "run"):
        ranks = [start(*command, env={**group, "RANK": str(rank)}) for rank in range(2)]
        errors = [finish(rank, status=2)[1] for rank in ranks]
    for error in errors:
        (line,) = [line for line in error.splitlines() if line.startswith("drawstream: ")]
        assert "is writing there: wait for it" in line and "gloo" not in error


OPTIONS = ["--model", "mlp", "--epochs", 6, "--global-batch", 24, "--seed", 7, "--interval", 5, "--explore-after", 2]
OPTIONS += ["--permutations", 1, "--reward", "loss", "--reward-rows", 50]  # ties are rare among losses


def arguments(data, out, population, more):
    own = ["search", "auto", data.train, "-o", out, "--held-out", data.holdout, "--population", population]
    return [str(part) for part in [*own, *OPTIONS, *more]]


def search_here(data, out, population, *more):
    """In this process alone, on one thread as under torchrun."""
    cli(*arguments(data, out, population, more))


def start_search(data, out, processes, population, *more):
    return start(*torchrun(processes, "-m", "drawstream.tools.cli", *arguments(data, out, population, more)))


def search(data, out, processes, population, *more):
    told, _ = finish(start_search(data, out, processes, population, *more))
    assert told.count("last reward") == 1  # one process speaks


def require_same(first, second, ranks):
    """Schedules, rewards and weights of two folders are equal to the bit."""
    mine, theirs = (json.loads((folder / "auto.json").read_text()) for folder in (first, second))
    assert Schedule.open(first / "schedule.arrow").diff(Schedule.open(second / "schedule.arrow")).first is None
    assert mine["rewards"] == theirs["rewards"] and mine["winners"] == theirs["winners"]
    assert theirs["ranks"] == ranks and len(set(theirs["winners"])) > 1
    weights = load_file(second / "last.safetensors")
    for name, value in load_file(first / "last.safetensors").items():
        np.testing.assert_array_equal(weights[name], value)


def test_two_processes_search_as_one(data, tmp_path, one_thread):
    search_here(data, tmp_path / "1", 3)
    search(data, tmp_path / "2", 2, 3)  # one child and two
    require_same(tmp_path / "1", tmp_path / "2", 2)
    running = start_search(data, tmp_path / "1", 2, 3, "--lr", 0.2)  # finished by one process, with another identity
    _, errors = finish(running, status=1)  # of torchrun
    assert "1/auto.json: this job was started with recipe.lr 0.05, not 0.2: give another output folder" in errors
    assert "[rank1]: Traceback" not in errors  # which waited for a process that had left


@pytest.mark.slow
def test_four_processes_search_as_one(data, tmp_path, one_thread):
    search_here(data, tmp_path / "1", 6)
    search(data, tmp_path / "4", 4, 6)
    require_same(tmp_path / "1", tmp_path / "4", 4)


@pytest.mark.slow
def test_a_killed_process_changes_nothing(data, tmp_path, one_thread):
    longer = ("--epochs", 60, "--explore-after", 3)
    search_here(data, tmp_path / "whole", 2, *longer)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    running = start_search(data, tmp_path / "killed", 2, 2, *longer)
    wait_until(lambda: checkpoint.exists() or running.poll() is not None, 120)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(running.pid)], capture_output=True, text=True)
    ranks = [int(each) for each in listed.stdout.split()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    running.communicate(timeout=120)
    assert running.returncode != 0 and not (tmp_path / "killed" / "auto.json").exists() and checkpoint.exists()
    search(data, tmp_path / "killed", 2, 2, *longer)
    require_same(tmp_path / "whole", tmp_path / "killed", 2)


METHODS = ("p", "sb", "osgd", "clean", "first")
MORE = ("infobatch", "dlis", "rho")
SCRIPT = """
import json, sys
from pathlib import Path

import numpy as np
import torch

from drawstream import IndexStream, Selected
from drawstream.tools.training.methods.plan import Budget, Clean, Inputs, LoopParts, TrainingPlan
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.ranks import join_ranks, leave_ranks
from drawstream.tools.training.setup import Setup
from drawstream.tools.training.loop import Recipe, train


class Double(torch.nn.Sequential):  # sums of another order must not change a choice
    def forward(self, images):
        return super().forward(images.double())


class First:  # leaves the second rank without a row
    factor, scores, before = 2, "loss", True

    def select(self, scores, /, *, epoch, step, ids):
        return Selected(np.arange(3), np.ones(3, np.float32))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class StopError(Exception):
    pass


catalog, out, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
ranks = join_ranks("cpu")
setup = Setup(catalog, "mlp", global_batch=24, ranks=ranks)
N = len(setup.data)
given = {"rows": N, "epochs": 3, "budget": Budget(0.4), "seed": 5, "global_batch": 24}
given |= {"labels": lambda: setup.data.label, "classes": 10, "clean": Clean(refresh=1)}
found = {}
for name in names:
    for stop in (False, True):
        def start():
            if name == "first":
                made = TrainingPlan(IndexStream(N, seed=5), 3, LoopParts(selector=First(), global_batch=24))
            else:
                made = METHODS[name].plan(Inputs(name=name, column=lambda _: np.linspace(0, 2, N), **given))
            if name == "dlis":
                made.parts.selector.gain = 1e6
            loader = setup.training_loader()
            loader.replace_stream(made.stream)
            torch.manual_seed(1)
            model = Double(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
            return model.double(), loader, Recipe(made.epochs, 0.05), made.parts

        def leave(epoch):
            if epoch.epoch == 0:
                raise StopError

        checkpoint = out / f"{name}.pt" if stop else None
        if stop:
            try:
                model, loader, recipe, parts = start()
                train(model, loader, recipe, parts=parts, ranks=ranks, checkpoint=checkpoint, on_epoch=leave)
            except StopError:
                ranks.wait()
        model, loader, recipe, parts = start()
        steps = []
        model.register_full_backward_hook(lambda *_: steps.append(1))
        run = train(model, loader, recipe, parts=parts, ranks=ranks, checkpoint=checkpoint)
        found[f"{name}-resumed" if stop else name] = {
            "counts": run.counts.tolist(),
            "work": [[epoch.forward, epoch.backward] for epoch in run.history],
            "loss": [epoch.loss for epoch in run.history],
            "steps": ranks.gather(len(steps)),
            "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
        }
        ranks.wait()
if ranks.writes:
    (out / "found.json").write_text(json.dumps(found))
leave_ranks()
"""


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits") / "data", 221).train


def launch(few, tmp_path_factory, methods):
    """Results of one and of two processes, by method."""
    found = []
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f"ranks-{processes}")
        (out / "train.py").write_text(SCRIPT)
        words = [out / "train.py", few, out, ",".join(methods)]
        run(*(torchrun(processes, *words) if processes > 1 else words))
        found.append(json.loads((out / "found.json").read_text()))
    return found


def check(found, name):
    alone, shared = (each[name] for each in found)
    assert shared["counts"] == alone["counts"]
    assert len(set(shared["steps"])) == 1
    np.testing.assert_allclose(shared["weights"], alone["weights"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shared["loss"], alone["loss"], rtol=0.05)  # fill counts in what is reported
    for (forward, backward), (own, back) in zip(shared["work"], alone["work"], strict=True):
        fill = sum(shared["steps"][:1]) + 24
        assert 0 <= forward - own <= fill and 0 <= backward - back <= fill
    for each in found:  # `steps` of the second part alone differ
        whole, resumed = ({k: v for k, v in each[key].items() if k != "steps"} for key in (name, f"{name}-resumed"))
        assert resumed == whole


@pytest.fixture(scope="module")
def found(few, tmp_path_factory):
    return launch(few, tmp_path_factory, METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_choose_train_and_resume_as_one(found, name):
    check(found, name)


@pytest.mark.slow
def test_two_ranks_with_the_other_methods(few, tmp_path_factory):
    found = launch(few, tmp_path_factory, MORE)
    for name in MORE:
        check(found, name)
