"""Config files: they give any command's options, the command line wins, and a wrong key is named."""

import json
import sys
from dataclasses import dataclass

import pytest
import typer

from drawstream.tools.cli.app import main
from drawstream.tools.runs.config import used_config
from drawstream.tools.runs.options import COUNT, SEED, Options, command, option
from shared.programs import cli
from shared.refusals import refused


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
    assert cli("stream", "count", *given, *given, status=2) == "drawstream: --config job.toml: give one file, once\n"
    assert cli("stream", "count", "--config", status=2) == "drawstream: --config without a file: give one file, once\n"
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


def test_no_such_file():
    assert cli("--config", "none.toml", "doctor", status=2) == "drawstream: none.toml: no such config file\n"


# Every number of every command has bounds, and is named where it is out of them


@dataclass(frozen=True, kw_only=True)
class NumbersOptions(Options):
    seeds: tuple[int, ...] = option((0,), "Seeds.", within=SEED)
    shares: tuple[float, float] = option((0.0, 1.0), "Shares.", within=(0, 1))
    workers: int | None = option(None, "Workers.", within=COUNT)
    rate: float = option(0.5, "Rate.", within=(0, 1))


@pytest.fixture
def given():
    """Parse words as the options of a command."""

    def parse(*words):
        app, found = typer.Typer(), []
        command(app, NumbersOptions, "numbers")(found.append)
        app([*words], standalone_mode=False)
        return found[0]

    return parse


def test_numbers_within_their_bounds_are_taken_exactly(given):
    found = given(f"--seeds={2**64 - 1},1e6", "--shares=0.25,1", "--workers=3")
    assert (found.seeds, found.shares, found.workers, found.rate) == ((2**64 - 1, 10**6), (0.25, 1.0), 3, 0.5)
    assert found.typed == {"seeds", "shares", "workers"}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        *((f"--seeds=1,{value}", "--seeds must be") for value in ("-1", "1e309", "nan", "1.5", "9" * 20, "x", "")),
        *((f"--shares=0,{value}", "--shares must be") for value in ("-1", "1e309", "nan", "2", "x", "0.5,0.5")),
        *((f"--workers={value}", "--workers must be") for value in ("0", "-1", "1" + "0" * 20)),
        *((f"--rate={value}", "--rate must be") for value in ("-1", "1e309", "nan")),
    ],
)
def test_others_are_refused_by_name(given, word, told):
    refused(told, given, word)


def test_a_number_without_bounds_is_no_option():
    @dataclass(frozen=True, kw_only=True)
    class Unbounded(Options):
        rows: int = option(3, "Rows.")

    refused("rows", lambda: command(typer.Typer(), Unbounded)(lambda given: given), error=AssertionError)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("train d -o x", "--epochs"), ("train d -o x", "--lr"), ("search auto d -o x --held-out h", "--population"),
        ("features d -o x --weights w", "--crops"), ("pack s o", "--quality"), ("stream show", "--draws"),
        ("serve d", "--port"), ("bench noise", "--seeds"), ("demo", "--seeds"),
    ],
)  # fmt: skip
def test_commands_hold_their_numbers(words, option):
    for value in ("-1", "1" + "0" * 20):
        err = cli(*words.split(), f"{option}={value}", status=2)
        assert f"drawstream: {option} must be in [" in err and err.count("\n") == 1


def test_an_export_that_the_disk_cannot_hold(tmp_path, capsys):
    given = ["stream", "export", "--rows", "10", "--draws", str(10**11), "--epochs", "0:100000"]
    assert main([*given, "-o", str(tmp_path / "a.arrow")]) == 2
    assert "a.arrow: 10000000000000000 draws take 120000000 GB, but" in capsys.readouterr().err
    assert main([*given[:-1], f"0:{10**30}", "-o", str(tmp_path / "a.arrow")]) == 2
    assert "epochs must be below 2**64, and at most 1000000 at once" in capsys.readouterr().err


def test_a_host_that_is_not_there_is_not_a_matter_of_the_port(tmp_path):
    assert "give another --host" in cli("serve", tmp_path, "--host", "no.such.host.invalid", status=2)
