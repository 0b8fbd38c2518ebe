"""`drawstream papers`: names, commands, the page, a run that goes on."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.tools.cli.app import main
from drawstream.tools.papers import TABLES, find_table, run_table
from drawstream.tools.papers.entry import PaperTable
from drawstream.tools.papers.page import page
from drawstream.tools.papers.tables import DATA

ROWS = {
    "ss": [*(f"table-{n}" for n in range(1, 12)), *(f"figure-{n}" for n in (1, 2, 3))],
    "as": [*(f"table-{n}" for n in range(1, 7)), *(f"figure-{n}" for n in (2, 3, 4))],
    "bt": [*(f"table-{n}" for n in range(1, 7)), "figure-1"],
}
SIZES = {"mini-imagenet": 84, "imagenet": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Catalogs in place of the papers' data: few rows, the right sizes and classes."""
    folder = tmp_path_factory.mktemp("papers")
    rng = np.random.default_rng(0)
    for name in DATA:
        classes, side = 10 if name != "cifar100" else 100, SIZES.get(name, 32)
        for part, rows in (("train", 400), ("holdout", 100), ("test", 100)):
            images = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
            pack(ArraySource(images, np.arange(rows) % classes), folder / name / part)
    return folder


def test_every_table_and_figure_is_there_once():
    assert list(TABLES) == [f"{paper}-{row}" for paper, rows in ROWS.items() for row in rows]
    assert all(table.data and set(table.data) <= set(DATA) for table in TABLES.values() if "$data" in table.full)


@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False], ids=["small", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_the_dry_run_of_each_command_passes(name, small, data, tmp_path, capsys):
    for command in TABLES[name].commands(str(tmp_path / "out"), small=small, data=str(data)):
        words = [word.replace("gpu", "cpu") for word in shlex.split(command)]  # as a machine with a GPU would
        assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_is_the_one_in_the_docs():
    docs = Path(__file__).parents[3] / "docs/papers.md"
    assert docs.read_text(encoding="utf-8") == page(), "run `make papers`"


def test_the_list_has_both_commands_of_each(capsys, tmp_path):
    assert main(["papers", "list", "--json", str(tmp_path / "list.json")]) == 0
    shown = capsys.readouterr().out
    listed = json.loads((tmp_path / "list.json").read_text())["tables"]
    assert [each["name"] for each in listed] == list(TABLES)
    assert all(f"drawstream {line}" in shown for each in listed for line in each["full"] + each["small"])
    assert not re.search(r"\$(data|out)", shown)


def test_a_run_keeps_what_was_printed_and_is_not_run_twice(tmp_path, capfd):
    table = PaperTable(
        name="bt-table-0",
        shows="",
        paper="",
        full="doctor",
        small="bench stream --rows 1000 --rounds 1 --json $out.json",
    )
    first = run_table(table, tmp_path / "a", small=True)
    assert "stratified" in first["printed"] and (tmp_path / "a/runs.json").exists()
    assert capfd.readouterr().out == first["printed"]
    (tmp_path / "a/runs.json").unlink()
    assert run_table(table, tmp_path / "a", small=True)["printed"] == first["printed"]
    assert not (tmp_path / "a/runs.json").exists()
    with pytest.raises(ValueError, match=r"small.*paper|paper.*small"):
        run_table(table, tmp_path / "a", small=False)


def test_a_command_that_fails_leaves_no_result(tmp_path):
    table = PaperTable(name="bt-table-0", shows="", paper="", full="", small="stream show $out/none")
    with pytest.raises(RuntimeError, match="status 2"):
        run_table(table, tmp_path, small=True)
    assert not (tmp_path / "table.json").exists()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="ss-table-12"):
        find_table("ss-table-12")
