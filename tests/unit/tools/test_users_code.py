"""A module of the user's that ends the process: never exit 0 with nothing done."""

import sys

import pytest

from drawstream.tools.cli.app import main

ENDS = {
    "ends_on_import": "import sys\nsys.exit(0)\n",
    "ends_when_called": "import sys\ndef f(*_, **__):\n    sys.exit(0)\n",
    "ends_later": "import sys\nclass f:\n    def __init__(self, *_): pass\n    def begin(self, *_): sys.exit(0)\n"
    "    def probabilities(self, epoch): sys.exit()\n",
}


@pytest.fixture
def run(digits, tmp_path, monkeypatch, capsys):
    for name, text in ENDS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(command):
        status = main(command.replace("DATA", str(digits.train)).split())
        return status, capsys.readouterr().err

    yield run
    for name in ENDS:
        sys.modules.pop(name, None)


TRAIN = "train DATA -o run --model mlp --epochs 1"
COMMANDS = [
    ("train DATA -o run --model {}:f", "model"),
    (f"{TRAIN} --sampler {{}}:f", "--sampler"),
    (f"{TRAIN} --hook {{}}:f", "--hook"),
    ("features DATA -o table --model mlp --weights no --measure {}:f", "measure"),
    ("search swift table -o search --catalog DATA --objective {}:f", "objective"),
]


@pytest.mark.parametrize(("command", "what"), COMMANDS)
def test_on_import(run, command, what):
    status, err = run(command.format("ends_on_import"))
    assert (status, err.count("\n")) == (2, 1)
    assert f"{what} 'ends_on_import:f' cannot be imported: it ended the process (SystemExit 0): put its main" in err


@pytest.mark.parametrize(("command", "what"), COMMANDS[:3])
def test_in_the_factory(run, command, what):
    status, err = run(command.format("ends_when_called"))
    assert (status, err.count("\n")) == (2, 1) and what in err
    assert "cannot be made: it ended the process (SystemExit 0)" in err


@pytest.mark.parametrize("option", ["--sampler", "--hook"])
def test_while_the_job_runs(run, option):
    status, err = run(f"{TRAIN} {option} ends_later:f")
    assert status == 2 and "ends_later.py:" in err and "ended the process (SystemExit" in err.splitlines()[-1]
