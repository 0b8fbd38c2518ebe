"""Every number of every command has bounds, and is named where it is out of them."""

from dataclasses import dataclass

import pytest
import typer

from drawstream.tools.cli.app import main
from drawstream.tools.runs.options import COUNT, SEED, Options, command, option


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
    with pytest.raises(ValueError, match=told):
        given(word)


def test_a_number_without_bounds_is_no_option():
    @dataclass(frozen=True, kw_only=True)
    class Unbounded(Options):
        rows: int = option(3, "Rows.")

    with pytest.raises(AssertionError, match="rows"):
        command(typer.Typer(), Unbounded)(lambda given: given)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("train d -o x", "--epochs"), ("train d -o x", "--lr"), ("search auto d -o x --held-out h", "--population"),
        ("features d -o x --weights w", "--crops"), ("pack s o", "--quality"), ("stream show", "--draws"),
        ("serve d", "--port"), ("bench noise", "--seeds"), ("demo", "--seeds"),
    ],
)  # fmt: skip
def test_commands_hold_their_numbers(words, option, capsys):
    for value in ("-1", "1" + "0" * 20):
        assert main([*words.split(), f"{option}={value}"]) == 2
        err = capsys.readouterr().err
        assert f"drawstream: {option} must be in [" in err and err.count("\n") == 1


def test_an_export_that_the_disk_cannot_hold(tmp_path, capsys):
    given = ["stream", "export", "--rows", "10", "--draws", str(10**11), "--epochs", "0:100000"]
    assert main([*given, "-o", str(tmp_path / "a.arrow")]) == 2
    assert "a.arrow: 10000000000000000 draws take 120000000 GB, but" in capsys.readouterr().err
    assert main([*given[:-1], f"0:{10**30}", "-o", str(tmp_path / "a.arrow")]) == 2
    assert "epochs must be below 2**64, and at most 1000000 at once" in capsys.readouterr().err


def test_a_host_that_is_not_there_is_not_a_matter_of_the_port(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    assert "give another --host" in capsys.readouterr().err
