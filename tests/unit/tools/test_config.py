"""Config files: they give any command's options, the command line wins, and a wrong key is named."""

import json
import sys

import pytest

from drawstream.tools.cli import main


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
    config = f'[train]\ncatalog = "{digits.train}"\nout = "run"\nmodel = "mlp"\nepochs = 1\nbatch-size = 50\n'
    config += f'[features]\ncatalog = "{digits.train}"\nout = "table"\nmodel = "mlp"\n'
    config += 'measures = ["loss", "correct"]\nweights = "run/last.safetensors"\n'
    assert run(config, "train", "--epochs", 2)[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["recipe"]["epochs"] == 2 and record["config"]["train"]["batch-size"] == 50
    assert record["command"] == ["drawstream", "--config", "job.toml", "train", "--epochs", "2"]
    status, out, _ = run(config, "features", "extract")
    assert status == 0 and "500 rows, loss, correct" in out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[train]\nepocs = 3", r"job.toml: [train] epocs: train has no such option: do you mean epochs?"),
        ("[trian]\nepochs = 3", "job.toml: no command 'trian': do you mean train?"),
        ("[search.swft]\ntrials = 3", "job.toml: no command 'search swft': do you mean swift?"),
        ("train = 3", "job.toml: train is a command: give its options in a table [train]"),
        ("[train.epochs]\nx = 3", "job.toml: [train] epochs: must be a value, but is a table"),
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


def test_no_such_file(capsys):
    assert main(["--config", "none.toml", "doctor"]) == 2
    assert capsys.readouterr().err == "drawstream: none.toml: no such config file\n"
