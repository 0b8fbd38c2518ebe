"""What all commands share: names and defaults of options, examples, completion, and the command in what they write."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import typer.main
from safetensors.torch import save_file

from drawstream import Catalog, Reading, Schedule, Scoring, SwiftSampler
from drawstream.tools.cli import app as cli
from drawstream.tools.cli.features import ExtractOptions
from drawstream.tools.cli.train import TrainOptions
from drawstream.tools.runs import RENAMED
from drawstream.tools.training import Recipe, Setup, build_model
from drawstream.tools.training.methods import method_names

PROGRAM = Path(sys.executable).with_name("drawstream")


def leaves(command, path=()):
    """All commands below one, by their words."""
    below = getattr(command, "commands", None)
    if below is None:
        return {path: command}
    return {words: leaf for name, each in below.items() for words, leaf in leaves(each, (*path, name)).items()}


COMMANDS = leaves(typer.main.get_command(cli.app))


def options(name):
    """An option wherever there is one of that name, by command."""
    found = {words: [each for each in leaf.params if name in each.opts] for words, leaf in COMMANDS.items()}
    return {words: each[0] for words, each in found.items() if each}


def test_shared_options_are_alike_everywhere():
    assert set(COMMANDS) - set(options("--json")) == {("serve",)}  # which ends with Ctrl-C
    assert set(options("--out")) == set(options("-o"))
    shared = {"--json": "None", "--device": "'cpu'", "--seed": "0", "--dry-run": "False", "--hook": "[]"}
    for name, default in shared.items():
        assert {repr(option.default) for option in options(name).values()} == {default}, name
    for name in ("--json", "--hook", "--engine", "--join", "--tensorboard", "--model", "--augment", "--frozen"):
        texts = defaultdict(list)
        for words, option in options(name).items():
            if words[0] != "bench":
                texts[option.help].append(words)
        assert len(texts) == 1, (name, texts)


def test_help_texts_show_what_can_be_typed(capsys):
    for words in (["fit"], ["pack"]):
        assert cli.main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[default: (" not in shown and "estimate" not in shown


def test_every_option_and_argument_has_a_help_text():
    silent = [(words, each.name) for words, leaf in COMMANDS.items() for each in leaf.params if not each.help]
    assert not silent


def test_names_are_written_alike():
    for words, leaf in COMMANDS.items():
        for name in (name for each in leaf.params for name in (*each.opts, *each.secondary_opts)):
            if name.startswith("-"):
                assert re.fullmatch(r"-[a-z]|--[a-z]+(-[a-z]+)*", name), (words, name)
        assert leaf.context_settings.get("help_option_names") is None  # the root's: -h everywhere


@pytest.mark.parametrize("words", [("train",), ("search", "swift"), ("bench", "stream"), ("features",), ("report",)])
def test_the_short_help_is_everywhere(words, capsys):
    assert cli.main([*words, "-h"]) == 0
    assert f"Example: drawstream {' '.join(words)} " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("trian data", "'train'"),
        ("search swfit", "'swift'"),
        ("stream shwo", "'show'"),
        ("train d --epoch 1", "--epochs"),
    ],
)
def test_what_is_unknown_names_the_nearest(line, near, capsys):
    assert cli.main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert near in said


def test_old_names_of_options_are_refused_with_the_new_one(capsys):
    tried = set()
    for words, leaf in COMMANDS.items():
        known = {name for each in leaf.params for name in each.opts}
        for old, new in RENAMED.items():
            if new in known and old not in known:
                assert cli.main([*words, old, "1"]) == 2
                assert capsys.readouterr().err == f"drawstream: {old} is {new} now\n"
                tried.add(old)
    assert tried == set(RENAMED)


@pytest.mark.parametrize(
    ("options", "kind"),
    [(TrainOptions, Recipe), (TrainOptions, Reading), (TrainOptions, Setup), (ExtractOptions, Scoring)],
)
def test_defaults_are_those_of_what_the_options_make(options, kind):
    defaults = {each.name: each.default for each in fields(options)}
    shared = [
        each for each in fields(kind) if each.name in defaults and each.name not in ("amp", "grad_memory", "crops")
    ]
    shared = [each for each in shared if each.default is not MISSING and defaults[each.name] is not MISSING]
    assert shared and {each.name: each.default for each in shared} == {
        each.name: defaults[each.name] for each in shared
    }


def complete(shell, *words):
    line = shlex.join(words[:-1]) + " " + words[-1]
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    asked |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_DRAWSTREAM_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([PROGRAM], env=os.environ | asked, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell):
    found = complete(shell, "drawstream", "se")
    assert "search" in found
    assert "serve" in found
    assert "doctor" not in found


def test_shells_complete_options_and_their_values():
    assert complete("zsh", "drawstream", "train", "--on").count("--on-bad") == 1
    assert complete("bash", "drawstream", "train", "--sampler", "coreset-f").split() == ["coreset-forgetting"]
    assert options("--sampler")["train",].shell_complete(None, "my/") == []  # then the shell offers files


def test_values_that_are_offered_are_those_there_are():
    assert set(method_names()) == {each.value for each in options("--sampler")["train",].shell_complete(None, "")}
    for name in ("--mode", "--model", "--sampler", "--agent", "--augment", "--device", "--engine", "--schedule"):
        for words, option in options(name).items():
            if words[0] != "bench":
                assert option.shell_complete(None, ""), (words, name)


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Run a command as if it were typed; gives its words as a shell takes them."""

    def run(*words):
        line = ["drawstream", *map(str, words)]
        monkeypatch.setattr(sys, "argv", line)
        assert cli.main(line[1:]) == 0
        return line

    return run


def test_what_a_command_writes_says_by_which_command(typed, digits, tmp_path):
    weights = tmp_path / "a file.safetensors"
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), weights)
    table = tmp_path / "table"
    line = typed("features", digits.train, "-o", table, "--model", "mlp", "--weights", weights)
    record = json.loads((tmp_path / "table.features.json").read_text())
    assert shlex.split(shlex.join(record["command"])) == line

    result = tmp_path / "r.json"
    line = typed("fit", table, "-o", tmp_path / "s.json", "--json", result)
    assert SwiftSampler.load(tmp_path / "s.json").provenance["command"] == line
    assert json.loads(result.read_text())["command"] == line

    line = typed("stream", "export", tmp_path / "s.json", "--table", table, "-o", tmp_path / "s.arrow")
    assert Schedule.open(tmp_path / "s.arrow").provenance["command"] == line
    line = typed("stream", "export", "--rows", 500, "--catalog", digits.train, "--idx", tmp_path / "idx")
    assert json.loads((tmp_path / "idx/export.json").read_text())["command"] == line


def test_catalogs_say_by_which_command(typed, tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
    line = typed("pack", tmp_path / "images.npz", tmp_path / "data", "--holdout", "6")
    for folder in ("train", "holdout"):
        record = json.loads((tmp_path / "data" / folder / "catalog.json").read_text())
        assert (record["kind"], record["command"]) == ("pack", line)
        assert "long_tail" not in Catalog.open(tmp_path / "data" / folder).provenance
    line = typed("pack", tmp_path / "images.npz", tmp_path / "tail", "--long-tail", "5")
    assert json.loads((tmp_path / "tail/catalog.json").read_text())["class_rows"] == [10, 2]
    line = typed("index", tmp_path / "data/train", "--overwrite", "--workers", "1")
    assert json.loads((tmp_path / "data/train/catalog.json").read_text())["command"] == line
