"""`drawstream papers`: names, commands, the page, a run that goes on."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from drawstream.tools.cli.app import main
from drawstream.tools.papers import TABLES, find_table, run_table
from drawstream.tools.papers.entry import PaperTable
from drawstream.tools.papers.page import page, results
from drawstream.tools.papers.tables import DATA

ROWS = {
    "ss": [*(f"table-{n}" for n in range(1, 12)), *(f"figure-{n}" for n in (1, 2, 3))],
    "as": [*(f"table-{n}" for n in range(1, 7)), *(f"figure-{n}" for n in (2, 3, 4))],
    "bt": [*(f"table-{n}" for n in range(1, 7)), "figure-1"],
}


def published_cifar(folder, files, names, extra=0):
    """CIFAR's binary files: a row is its label (fine behind coarse, if any) and 3 x 32 x 32 bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file, rows in files.items():
        records = rng.integers(0, 256, (rows, extra + 1 + 3072), dtype=np.uint8)
        records[:, extra] = np.arange(rows) % len(names)
        records.tofile(folder / file)
    kind = "fine_label_names.txt" if extra else "batches.meta.txt"
    (folder / kind).write_text("\n".join(names) + "\n")


def class_folders(folder, classes, rows, side):
    rng = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class{number:02}").mkdir(parents=True)
        for row in range(rows):
            image = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            image.save(folder / f"class{number:02}" / f"{row}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The papers' data as their authors publish them, a few rows each, made ready by the lines of the page."""
    folder = tmp_path_factory.mktemp("papers")
    raw = folder / "raw"
    batches = {f"data_batch_{number}.bin": 80 for number in range(1, 6)}
    published_cifar(raw / "cifar-10-batches-bin", batches | {"test_batch.bin": 100}, [f"c{n}" for n in range(10)])
    published_cifar(
        raw / "cifar-100-binary", {"train.bin": 400, "test.bin": 100}, [f"c{n}" for n in range(100)], extra=1
    )
    (raw / "svhn").mkdir()
    for name, rows in (("train", 200), ("test", 100)):
        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, rows), dtype=np.uint8)
        labels = (np.arange(rows) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(raw / "svhn" / f"{name}_32x32.mat", {"X": images, "y": labels})
    for name, side in (("imagenet", 64), ("mini-imagenet", 84)):
        for part in ("train", "val", "test"):
            class_folders(raw / name / part, 25, 20, side)
    (raw / "wikitext-2").mkdir()
    for part in ("train", "valid", "test"):
        (raw / "wikitext-2" / f"wiki.{part}.tokens").write_text(" ".join(f"w{n % 50}" for n in range(3000)))
    for line in (line for lines in DATA.values() for line in lines):
        program, *words = shlex.split(re.sub(r"--holdout \d+", "--holdout 100", line).replace("$data", str(folder)))
        if program == "mv":
            Path(words[0]).rename(words[1])
        else:
            assert main(words) == 0, line
    return folder


def test_every_table_and_figure_is_there_once():
    assert list(TABLES) == [f"{paper}-{row}" for paper, rows in ROWS.items() for row in rows]
    assert all(table.data and set(table.data) <= set(DATA) for table in TABLES.values() if "$data" in table.full)


@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False], ids=["small", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_the_dry_run_of_each_command_passes(name, small, data, tmp_path, capsys):
    lines = TABLES[name].commands(str(tmp_path / "out"), small=small, data=str(data))
    if any("timm:" in line for line in lines):
        pytest.importorskip("timm", reason="models of timm")
    for command in lines:
        words = [word.replace("gpu", "cpu") for word in shlex.split(command)]  # as a machine with a GPU would
        few = [] if small else ["--global-batch", "8"]  # of large images, so that a core can try a step
        assert main([*words, *few, "--dry-run"]) == 0, capsys.readouterr().err
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
    with pytest.raises(ValueError, match="status 2"):
        run_table(table, tmp_path / "with space", small=True)
    assert not (tmp_path / "with space/table.json").exists()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="ss-table-12"):
        find_table("ss-table-12")


@pytest.mark.parametrize("name", results())
def test_a_result_is_of_the_command_that_is_shown(name):
    kept = results()[name]
    assert kept["identity"]["commands"] == TABLES[name].commands("OUT", small=kept["identity"]["size"] == "small")
