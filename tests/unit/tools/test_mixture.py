"""Mixtures in the commands: the file, training and its resume, learning sources, stream show and export."""

import json
from pathlib import Path

import numpy as np
import pytest

from drawstream import Catalog, Schedule
from drawstream.tools.runs.hooks import Hooks
from drawstream.tools.training.methods import read_mixture
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, write_table

CUTS = {"a": slice(0, 120), "b": slice(120, 200), "c": slice(200, 300)}
MLP = ("--model", "mlp", "--global-batch", 50)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return [array_catalog(root / name, PIXELS[cut], LABELS[cut], shard_rows=50) for name, cut in CUTS.items()]


def write(path, parts, shares, head="", **more):
    """A mixture.toml of catalogs; `more` are further lines of the sources, by name."""
    blocks = [head]
    for name, part, share in zip(CUTS, parts, shares, strict=True):
        blocks.append(f'[[sources]]\ncatalog = "{part.root}"\nshare = {share}\n{more.get(name, "")}')
    path.write_text("\n".join(blocks))
    return path


def test_a_mixture_is_trained_on_with_its_shares_and_goes_on_after_a_stop(parts, tmp_path, monkeypatch):
    table = write_table(tmp_path / "fb", parts[1], {"loss": np.linspace(0, 1, 80, dtype=np.float32)})
    np.save(tmp_path / "w.npy", np.linspace(0, 1, 120))
    cli("fit", table, "-o", tmp_path / "s.json", "--features", "loss", "--transform", "cdf", "--coefficients", "1")
    file = write(
        tmp_path / "mixture.toml",
        parts,
        [0.5, "[[0, 0.25], [0.5, 0]]", 0.25],
        head="draws = 200",
        a=f'sampler = "{tmp_path / "w.npy"}"\nmode = "multinomial"',
        b=f'sampler = "{tmp_path / "s.json"}"\ntable = "{table}"',
        c='sampler = "p"\nbudget = 0.3',
    )
    words = ("train", "--mixture", file, *MLP, "--epochs", 4, "--seed", 3)
    cli(*words, "-o", tmp_path / "whole")
    record = json.loads((tmp_path / "whole/run.json").read_text())
    assert [each["name"] for each in record["sources"]] == ["a", "b", "c"]
    assert [each["rows"] for each in record["sources"]] == [120, 80, 100]
    draws = np.array([each["draws"] for each in record["sources"]])
    assert draws.sum() == 800 and draws[1] == 100 and 440 < draws[0] < 490
    assert all(each["loss"] > 0 and 0 <= each["top1"] <= 100 for each in record["sources"] if each["name"] != "b")
    assert record["method"] == "mixture" and record["sampling"]["mixture"]["sources"][1]["share"] == [
        [0, 0.25],
        [0.5, 0],
    ]

    class StopError(Exception):
        pass

    def stop(self, done, *_):
        if done == 2:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Hooks, "step", stop)
        with pytest.raises(StopError):
            cli(*words, "-o", tmp_path / "again")
    cli(*words, "-o", tmp_path / "again")
    again = json.loads((tmp_path / "again/run.json").read_text())
    same = ("loss", "sources", "lr")
    for one, other in zip(record["history"], again["history"], strict=True):
        assert {name: one[name] for name in same} == {name: other[name] for name in same}
    assert (tmp_path / "whole/last.safetensors").read_bytes() == (tmp_path / "again/last.safetensors").read_bytes()
    shown = cli_json(
        tmp_path, "stream", "show", "--mixture", file, "--training-epochs", 4, "--seed", 3, "--global-batch", 50
    )
    assert shown["fingerprint"] == record["stream"] and shown["draws"] == 200
    first = record["history"][0]["sources"]
    assert [each["draws"] for each in shown["sources"]] == [first[name]["draws"] for name in "abc"]
    write(file, parts, [0.5, "[[0, 0.25], [0.5, 0]]", 0.26], head="draws = 200")
    line = cli(*words, "-o", tmp_path / "whole", status=2)
    assert "another output folder" in line and "stream" in line


def test_batches_of_one_source_and_an_export(parts, tmp_path):
    file = write(tmp_path / "m.toml", parts, [1, 2, 1], head='batches = "single"')
    cli("train", "--mixture", file, "-o", tmp_path / "run", *MLP, "--epochs", 1)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert all(each["draws"] % 50 == 0 for each in record["sources"])
    cli("stream", "export", "--mixture", file, "--global-batch", 50, "-o", tmp_path / "o.arrow", "--epochs", "0:2")
    schedule = Schedule.open(tmp_path / "o.arrow", catalog=Catalog.open(*(part.root for part in parts)).fingerprint)
    assert schedule.epochs == 2 and schedule.rows == 300
    words = ("stream", "count", "--mixture", file, "--global-batch", 50, "--training-epochs", 2, "--epochs")
    assert "beyond" not in cli(*words, "0:2", notes=True)
    told = "note: epochs from 2 on are beyond the training of 2 (--training-epochs): they have the shares of its end"
    assert told in cli(*words, "1:3", notes=True)
    for epoch in range(2):
        source = np.searchsorted([120, 200], schedule.epoch(epoch)[:], side="right").reshape(-1, 50)
        assert (source == source[:, :1]).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write \\[\\[sources\\]\\]"),
        ("sources = 3", "sources must be tables"),
        ("[[sources]]\nshare = 1", "sources\\[0\\].catalog must be a path, but it is not there"),
        ('[[sources]]\ncatalog = "a"', "sources\\[0\\] \\(a\\).share must be a number"),
        ('[[sources]]\ncatalog = "a"\nshare = "x"', "'x'"),
        ('[[sources]]\ncatalog = "a"\nshare = true', "True"),
        ('[[sources]]\ncatalog = "a"\nshare = [[0, 1, 2]]', "steps"),
        ('[[sources]]\ncatalog = "a"\nsahre = 1', "sahre: no such key: do you mean share"),
        ('[[sources]]\ncatalog = "a"\nshare = 1\nmode = "best"', "mode must be one of"),
        ('[[sources]]\ncatalog = "a"\nshare = 1\nbudget = 2', "budget must be a number in"),
        ('[[sources]]\ncatalog = "a"\nshare = 1\nsampler = ""', "sampler must be a path"),
        ('batches = "one"\n[[sources]]\ncatalog = "a"\nshare = 1', "batches must be one of mixed, single"),
        ('draws = 1.5\n[[sources]]\ncatalog = "a"\nshare = 1', "draws must be a whole number"),
        ("[[sources", "TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(text, told, tmp_path):
    path = tmp_path / "mixture.toml"
    path.write_text(text)
    assert str(path) in refused(told, read_mixture, path)


def test_what_does_not_go_with_a_mixture_is_refused(parts, tmp_path):
    file = write(tmp_path / "m.toml", parts, [1, 1, 1])
    train = ("train", "-o", tmp_path / "x", *MLP)

    def told(*words):
        return cli(*words, status=2).splitlines()[-1]

    assert "no such mixture" in told(*train, "--mixture", tmp_path / "none.toml")
    assert "one of the two" in told(*train) and "one of the two" in told(*train, parts[0].root, "--mixture", file)
    assert "--sampler p" in told(*train, "--mixture", file, "--sampler", "p")
    assert "--budget" in told(*train, "--mixture", file, "--budget", 0.5)
    assert "leave it out" in told(*train, "--mixture", file, "--mode", "subset")
    assert "leave it out" in told("stream", "show", "--mixture", file, "--rows", 5)
    assert "--mixture" in told("stream", "show", "--rows", 5, "--training-epochs", 5)
    steps = write(tmp_path / "steps.toml", parts, [1, "[[0, 1], [0.5, 0]]", 1])
    assert "--training-epochs" in told("stream", "show", "--mixture", steps)
    for sampler in ("sb", "rais", "infobatch"):
        file = write(tmp_path / "m.toml", parts, [1, 1, 1], b=f'sampler = "{sampler}"')
        assert "sources[1]" in told(*train, "--mixture", file)
    file = write(tmp_path / "m.toml", parts, [1, 1, 1], b='mode = "subset"')
    assert "sources[1]" in told(*train, "--mixture", file)
    file = write(tmp_path / "m.toml", parts, [1, 1, "[[0.5, 1]]"])
    assert str(file) in told(*train, "--mixture", file)
    assert not (tmp_path / "x").exists()


def test_a_source_gives_some_of_its_rows_with_balanced_classes(parts, tmp_path):
    more = {"a": 'where = "label < 4"\nbalance = 1', "b": 'where = "label in (1, 2)"'}
    file = write(tmp_path / "mixture.toml", parts, [1, 1, 1], **more)
    cli("train", "--mixture", file, *MLP, "--epochs", 6, "-o", tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    labels = [part.label for part in parts]
    kept = [(labels[0] < 4).sum(), np.isin(labels[1], (1, 2)).sum(), len(labels[2])]
    assert record["forward"] == 6 * sum(kept)
    counts = cli_json(tmp_path, "stream", "export", "--mixture", file, "--epochs", "0:6", "-o", tmp_path / "s.arrow")
    assert counts["draws"] == sum(kept)
    schedule = Schedule.open(tmp_path / "s.arrow")
    rows = np.concatenate([schedule.epoch(each) for each in range(6)])
    of_a, of_b = labels[0][rows[rows < 120]], labels[1][rows[(rows >= 120) & (rows < 200)] - 120]
    assert set(of_b.tolist()) == {1, 2} and set(of_a.tolist()) == {0, 1, 2, 3}
    assert np.bincount(of_a) == pytest.approx([len(of_a) / 4] * 4, rel=0.15)
    for more, told in (
        ({"a": "balance = 2"}, "sources[0] ("),
        ({"a": 'where = "labl < 4"'}, "no column 'labl': did you mean label?"),
        ({"c": 'where = "label <"'}, "is not understood"),
        ({"b": 'where = "label > 9"'}, f"bad.toml: sources[1] ({parts[1].root}): where 'label > 9': it holds for none"),
    ):
        file = write(tmp_path / "bad.toml", parts, [1, 1, 1], **more)
        assert told in cli("train", "--mixture", file, *MLP, "--epochs", 1, "-o", tmp_path / "bad", status=2)


def test_the_guides_file_is_one(tmp_path):
    guide = (Path(__file__).parents[3] / "docs/mixing.md").read_text(encoding="utf-8")
    (tmp_path / "mixture.toml").write_text(guide.partition("```toml\n")[2].partition("```")[0])
    mixture = read_mixture(tmp_path / "mixture.toml")
    assert [each.share for each in mixture.sources] == [0.5, [[0, 0.3], [0.5, 0]], 0.2] and mixture.draws == 60000
