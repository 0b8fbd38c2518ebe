"""Config files: they give any command's options, the command line wins, and a wrong key is named."""

import json
import sys

import pytest

from drawstream.tools.cli.app import main
from drawstream.tools.runs.config import used_config


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Write a config and run a command with it; exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def act(text, *arguments):
        (tmp_path / "job.toml").write_text(text)
        capsys.readouterr()
        command = ["--config", "job.toml", *(str(each) for each in arguments)]
        monkeypatch.setattr(sys, "argv", ["drawstream", *command])
        return main(command), *capsys.readouterr()

    return act


def test_options_of_a_nested_command_and_the_command_line_wins(run):
    config = '[stream.count]\nrows = 10\nmode = "multinomial"\nepochs = "0:2"\n'
    status, out, _ = run(config, "stream", "count")
    assert status == 0 and "10 rows" in out and "mode multinomial" in out and "epoch 1" in out
    status, out, _ = run(config, "stream", "count", "--rows", 20)
    assert status == 0 and "20 rows" in out and "mode multinomial" in out


def test_arguments_lists_and_the_record(run, digits, tmp_path):
    config = f'[train]\ncatalog = "{digits.train}"\nout = "run"\nmodel = "mlp"\nepochs = 1\nglobal-batch = 50\n'
    config += f'[features]\ncatalog = "{digits.train}"\nout = "table"\nmodel = "mlp"\n'
    config += 'measures = ["loss", "correct"]\nweights = "run/last.safetensors"\n'
    assert run(config, "train", "--epochs", 2)[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["recipe"]["epochs"] == 2 and record["config"]["train"]["global-batch"] == 50
    assert record["command"] == ["drawstream", "--config", "job.toml", "train", "--epochs", "2"]
    status, out, _ = run(config, "features", "extract")
    assert status == 0 and "500 rows, loss, correct" in out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[train]\nepocs = 3", r"job.toml: [train] epocs: train has no such option: do you mean epochs?"),
        ("[trian]\nepochs = 3", "job.toml: no command 'trian': do you mean train?"),
        ("[search.swft]\ntrials = 3", "job.toml: no command 'search swft': do you mean swift?"),
        ('storage = "x"', "job.toml: storage is an option: give it below [search.swift]"),
        ("[search]\nagent = 3", "job.toml: agent is an option: give it below [search.swift]"),
        ("train = 3", "job.toml: train is a command: give its options in a table [train]"),
        ("[train.epochs]\nx = 3", "job.toml: [train] epochs: must be a value, but is a table"),
        ("[train]\nbatch-size = 3", "job.toml: [train] batch-size is global-batch now"),
        ("[train]\nhelp = true", "job.toml: [train] help: train has no such option"),
        ("[train", "job.toml: not readable as TOML"),
        (f"a = {'[' * 1500}{']' * 1500}", "job.toml: not readable as TOML: lists and objects may lie 100 levels deep"),
        (f"[train]\nepochs = {'1' * 5000}", "job.toml: not readable as TOML: an integer may have 20 digits"),
        ('[stream.count]\nrows = "many"', "Invalid value for '--rows'"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(run, config, message):
    status, out, err = run(config, "stream", "count")
    assert status == 2 and not out and message in err and len(err.splitlines()) == 1


def test_it_stands_before_or_behind_the_command_at_any_depth(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "job.toml").write_text("[stream.count]\nrows = 10\n")
    monkeypatch.chdir(tmp_path)
    given = ("--config", "job.toml")
    for words in (
        [*given, "stream", "count"],
        ["stream", *given, "count"],
        ["stream", "count", *given],
        ["stream", "count", "--config=job.toml", "--epochs", "0:1"],
    ):
        assert main(words) == 0, words
        assert "10 rows" in capsys.readouterr().out
    assert main(["stream", "count", *given, *given]) == 2
    assert capsys.readouterr().err == "drawstream: --config job.toml: give one file, once\n"
    assert main(["stream", "count", "--config"]) == 2
    assert capsys.readouterr().err == "drawstream: --config without a file: give one file, once\n"
    assert main(["stream", "count"]) == 2  # nothing of it is left


@pytest.mark.parametrize("text", ["[train]\nepochs = 9\n", "[tra", None])
def test_a_file_that_is_edited_during_the_run_changes_nothing(digits, tmp_path, monkeypatch, text):
    path = tmp_path / "job.toml"
    path.write_text(f'[train]\ncatalog = "{digits.train}"\nmodel = "mlp"\nepochs = 1\n')

    def begin(*_):
        path.unlink()
        if text is not None:
            path.write_text(text)

    monkeypatch.setattr("drawstream.tools.runs.hooks.Journal.begin", begin)
    monkeypatch.setattr("drawstream.tools.runs.hooks.Journal.step", lambda *_: None)
    command = ["train", "-o", str(tmp_path / "run"), "--config", str(path)]
    monkeypatch.setattr(sys, "argv", ["drawstream", *command])
    assert main() == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"] == {"train": {"catalog": str(digits.train), "model": "mlp", "epochs": 1}}
    assert record["command"] == ["drawstream", *command]
    assert main(["fit", "--help"]) == 0
    assert used_config() == {}  # the next command of this process has none


def test_no_such_file(capsys):
    assert main(["--config", "none.toml", "doctor"]) == 2
    assert capsys.readouterr().err == "drawstream: none.toml: no such config file\n"
