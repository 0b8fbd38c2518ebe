"""Hooks: what a job tells them, the journal it leaves while it runs, TensorBoard's files."""

import json
import sys

import pytest

from drawstream.tools.cli.app import main
from drawstream.tools.runs.hooks import JOURNAL, Hooks, Journal, load_hooks, read_journal

HOOK = """
import json

class Log:
    def __init__(self, out):
        self.out = out / "log.jsonl"
        self.lines = []
    def begin(self, kind, settings):
        self.lines.append(["begin", kind, settings["seed"]])
    def step(self, step, total, values):
        self.lines.append(["step", step, total, sorted(values), (self.out.parent / "progress.json").exists()])
    def end(self, record):
        self.lines.append(["end", record["kind"]])
        self.out.write_text("\\n".join(json.dumps(line) for line in self.lines))

not_a_factory = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hooks_of_a_test.py").write_text(HOOK)
    yield "hooks_of_a_test"
    sys.modules.pop("hooks_of_a_test", None)


def test_a_training_tells_its_hooks(module, digits, tmp_path):
    command = ["train", str(digits.train), "-o", "run", "--model", "mlp", "--epochs", "3", "--held-out"]
    assert main([*command, str(digits.held_out), "--hook", f"{module}:Log", "--tensorboard", "--seed", "4"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[0] == ["begin", "train", 4] and lines[-1] == ["end", "train"]
    names = ["accuracy/held_out", "images_per_second", "loss", "lr", "seconds", "wait_share"]
    assert lines[1:-1] == [["step", n, 3, names, True] for n in (1, 2, 3)]
    assert not (tmp_path / "run" / JOURNAL).exists()  # the record speaks now


def test_tensorboard_has_every_value(digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = ["train", str(digits.train), "-o", str(tmp_path / "run"), "--model", "mlp", "--epochs", "3"]
    assert main([*command, "--tensorboard"]) == 0
    found = EventAccumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    record = json.loads((tmp_path / "run/run.json").read_text())
    losses = found.Scalars("train/loss")
    assert [each.step for each in losses] == [1, 2, 3]
    assert [each.value for each in losses] == pytest.approx([epoch["loss"] for epoch in record["history"]])


def test_a_journal_goes_on_after_a_kill(tmp_path):
    first = Journal(tmp_path)
    first.begin("train", {"method": "p", "seed": 1})
    for step in (1, 2, 3):
        first.step(step, 5, {"loss": 1.0 / step})
    first._write()  # the third may have been too soon after the second
    began = read_journal(tmp_path / JOURNAL)["began"]
    second = Journal(tmp_path)  # the checkpoint was of step 2
    second.begin("train", {"method": "p", "seed": 1})
    second.step(3, 5, {"loss": 9.0})
    second._write()
    found = read_journal(tmp_path / JOURNAL)
    assert [(point[1], point[2]["loss"]) for point in found["points"]] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert found["began"] == began and found["title"] == "p seed 1"


def test_a_long_journal_stays_short(tmp_path):
    journal = Journal(tmp_path)
    journal.begin("auto", {})
    for step in range(1, 5001):
        journal.step(step, 5000, {"reward": step})
    found = read_journal(tmp_path / JOURNAL)
    assert len(found["points"]) <= 1000 and found["points"][0][1] == 1 and found["points"][-1][1] == 5000


def test_what_is_no_number_is_left_out_and_others_do_not_write(tmp_path):
    Hooks(tmp_path, writes=False).begin("train", {})
    assert not list(tmp_path.iterdir())
    hooks = Hooks(tmp_path)
    hooks.begin("search", {"path": tmp_path})
    hooks.step(1, 1, {"value": float("nan"), "best": None, "x": 2})
    assert read_journal(tmp_path / JOURNAL)["points"][0][2] == {"x": 2.0}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', "\x00"])
def test_a_damaged_journal_is_none(tmp_path, content):
    (tmp_path / JOURNAL).write_text(content)
    assert read_journal(tmp_path / JOURNAL) is None
    Journal(tmp_path).begin("train", {})
    assert read_journal(tmp_path / JOURNAL)["points"] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Log", "No module named 'no_such_module'"),
        ("{}:Missing", "give module:factory"),
        ("{}:not_a_factory", "must name a factory"),
        ("{}", "must be module:factory"),
    ],
)
def test_wrong_hooks_are_named(module, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        load_hooks(tmp_path, [name.format(module)])
