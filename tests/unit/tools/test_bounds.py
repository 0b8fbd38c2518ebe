"""Every number of every command has bounds, and is named where it is out of them."""

from dataclasses import dataclass

import pytest
import typer

from drawstream.tools.cli.app import app, main
from drawstream.tools.runs.options import SEED, Options, command, option


def leaves(group, above=()):
    """Name and command of all that do something."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from leaves(each, (*above, name))
        else:
            yield " ".join((*above, name)), each


COMMANDS = dict(leaves(typer.main.get_command(app)))


def kind_of(parameter):
    """What it takes, as text."""
    described = getattr(parameter, "type_descriptor", None)
    return "" if described is None else str(described.annotation)


NUMBERS = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if "int" in kind_of(parameter) or "float" in kind_of(parameter)
]
LISTS = [("demo", "seeds"), ("bench stream", "rows"), ("bench stream", "seeds"), ("bench loader", "batch_sizes")]
LISTS += [("bench noise", "noise"), ("bench noise", "seeds"), ("bench budget", "budgets"), ("bench budget", "seeds")]
LISTS += [("bench transfer", "seeds"), ("bench auto", "seeds"), ("bench auto", "noise")]


def words_of(name):
    """The command with a word for all that it must be given."""
    words = name.split()
    for parameter in COMMANDS[name].params:
        if parameter.required:
            words += ["x"] if parameter.param_type_name == "argument" else [parameter.opts[0], "x"]
    return words


@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids=lambda each: getattr(each, "name", each))
def test_every_number_is_held_to_its_bounds(name, parameter, capsys):
    option = max(parameter.opts, key=len)
    whole = "int" in kind_of(parameter)
    for value in ["-1", "1" + "0" * 20] if whole else ["-1", "1e309", "nan"]:
        assert main([*words_of(name), f"{option}={value}"]) == 2
        err = capsys.readouterr().err
        assert option in err and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize(("name", "option"), LISTS)
def test_so_is_every_number_of_a_list(name, option, capsys):
    for value in ["-1", "1e309", "nan", "1" + "0" * 20]:
        assert main([*words_of(name), f"--{option.replace('_', '-')}=1,{value}"]) == 2
        err = capsys.readouterr().err
        assert f"--{option.replace('_', '-')}" in err and err.count("\n") == 1


@dataclass(frozen=True, kw_only=True)
class SeedsOptions(Options):
    seeds: tuple[int, ...] = option((0,), "Seeds.", within=SEED)


def test_large_seeds_of_a_list_stay_exact():
    given = []
    seeded = typer.Typer()
    command(seeded, SeedsOptions, "seeded")(given.append)
    seeded([f"--seeds={2**64 - 1},1e6"], standalone_mode=False)
    assert given[0].seeds == (2**64 - 1, 10**6)
    with pytest.raises(ValueError, match=r"--seeds must be in \[0, 18446744073709551615\], but got -1"):
        seeded(["--seeds=-1"], standalone_mode=False)


def test_an_export_that_the_disk_cannot_hold(tmp_path, capsys):
    given = ["stream", "export", "--rows", "10", "--draws", str(10**11), "--epochs", "0:100000"]
    assert main([*given, "-o", str(tmp_path / "a.arrow")]) == 2
    assert "a.arrow: 10000000000000000 draws take 120000000 GB, but" in capsys.readouterr().err
    assert main([*given[:-1], f"0:{10**30}", "-o", str(tmp_path / "a.arrow")]) == 2
    assert "epochs must be below 2**64, and at most 1000000 at once" in capsys.readouterr().err


def test_a_host_that_is_not_there_is_not_a_matter_of_the_port(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    assert "give another --host" in capsys.readouterr().err
