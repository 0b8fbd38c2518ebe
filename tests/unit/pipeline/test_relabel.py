"""relabel.json in pack and index: labels that change, rows that go, and lists of other data, which are refused."""

import json

import numpy as np
import pytest

from drawstream import ArraySource, Catalog, index, open_source, pack, verify
from drawstream.pipeline.decoding import encode
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, pack_digits, write_tar

ROWS = 120


def listed(path, changes, drop=()):
    """Write a list of {key: (given, label)}; gives its path."""
    changes = {key: {"given": given, "label": label} for key, (given, label) in changes.items()}
    path.write_text(json.dumps({"format": 1, "relabel": changes, "drop": list(drop)}))
    return path


def other(catalog, rows):
    """Changes of some rows to the class after theirs."""
    given = {row: int(catalog.label[row]) for row in rows}
    return {catalog.key(row): (str(c), str((c + 1) % 10)) for row, c in given.items()}


@pytest.mark.parametrize("options", [{}, {"label_noise": 0.3}, {"holdout": 40}, {"limit": 90}], ids=str)
def test_pack_changes_labels_after_noise_and_keeps_rows_and_their_order(tmp_path, options):
    before = Catalog.open(pack_digits(tmp_path / "before", ROWS, **options).train)
    file = listed(tmp_path / "relabel.json", other(before, (3, 30)), [before.key(7)])
    done = pack_digits(tmp_path / "after", ROWS, relabel=file, **options)
    after, kept = Catalog.open(done.train), np.arange(len(before)) != 7
    due = before.label.copy()
    due[[3, 30]] = (due[[3, 30]] + 1) % 10
    assert (done.changed, done.dropped, done.rows) == (2, 1, len(before) - 1)
    assert after.keys == [before.key(row) for row in np.flatnonzero(kept).tolist()]
    np.testing.assert_array_equal(after.label, due[kept])
    if before.clean_label is not None:
        np.testing.assert_array_equal(after.clean_label, before.clean_label[kept])
    assert verify(after) == [] and after.provenance["relabel"]["changed"] == 2
    again = pack_digits(tmp_path / "after", ROWS, relabel=file, **options)
    assert not again.ran and (again.changed, again.dropped) == (2, 1)
    text = "holds a pack with relabel"
    refused(text, pack, ArraySource(PIXELS[:ROWS], LABELS[:ROWS]), tmp_path / "after", **options)


def test_pack_of_class_folders_names_rows_by_their_path(tmp_path):
    for name in ("cats/a", "cats/b", "dogs/a"):
        file = tmp_path / f"photos/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(PIXELS[0], "png", quality=95)[0])
    file = listed(tmp_path / "relabel.json", {"cats/b": ("cats", "dogs")})
    catalog = Catalog.open(pack(open_source(tmp_path / "photos"), tmp_path / "out", relabel=file).train)
    found = {catalog.key(row): catalog.classes[c] for row, c in enumerate(catalog.label.tolist())}
    assert found == {"cats/a": "cats", "cats/b": "dogs", "dogs/a": "dogs"}


def shards(folder, names=("a", "b")):
    """Two tars whose keys restart."""
    folder.mkdir()
    image = encode(PIXELS[0], "png", quality=95)[0]
    for name in names:
        members = [(f"{i}.{end}", data) for i in range(3) for end, data in (("png", image), ("cls", str(i % 2)))]
        write_tar(folder / f"{name}.tar", *members)
    return folder


def test_index_changes_labels_and_verify_holds_the_shards_against_their_own(tmp_path):
    folder, told = shards(tmp_path / "tars"), []
    catalog = Catalog.open(index(folder))
    file = listed(tmp_path / "relabel.json", {"a/1": ("1", "0"), "b/0": ("0", "1")}, ["b/2"])
    after = Catalog.open(index(folder, out=tmp_path / "out", relabel=file, finish=told.append))
    assert (told[0].changed, told[0].dropped, told[0].rows) == (2, 1, 5)
    assert dict(zip(after.keys, after.label.tolist(), strict=True)) == {
        "a/0": 0,
        "a/1": 0,
        "a/2": 0,
        "b/0": 1,
        "b/1": 1,
    }
    assert after.fingerprint != catalog.fingerprint and verify(after) == []
    assert [after.key(row) for row in range(3)] == [catalog.key(row) for row in range(3)]
    again = index(folder, out=tmp_path / "out", relabel=listed(tmp_path / "other.json", {}), overwrite=True)
    assert Catalog.open(again).fingerprint == catalog.fingerprint  # nothing changed, so the same data


def test_verify_still_finds_labels_of_the_shards_that_changed(tmp_path):
    folder = shards(tmp_path / "tars", ["a"])
    file = listed(tmp_path / "relabel.json", {"1": ("1", "0")}, ["2"])
    catalog = Catalog.open(index(folder, relabel=file))
    tar = folder / "a.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(b"1.cls")  # its label lies behind this header
    data[at + 512] = ord("0")  # what the list says, and not what it expects
    tar.write_bytes(bytes(data))
    assert any("label must be 1 ('1'), but its shard says 0" in found.message for found in verify(catalog))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "is no relabel.json of format 1: write it again"),
        ({"decisions": {}}, "is a review, which does not hold the given labels: give the relabel.json"),
        ({"relabel": {"nowhere": {"given": "0", "label": "1"}}}, "'nowhere' is no sample of arrays"),
        ({"drop": ["nowhere"]}, "'nowhere' is no sample of arrays"),
        ({"drop": "00000000"}, "drop must be a list of keys"),
        ({"relabel": {"00000000": "1"}}, "'00000000' must have a given class and a label"),
        ({"relabel": {"00000000": {"given": "0", "label": "cat"}}}, "relabelled to 'cat', which is no class of arrays"),
        ({"relabel": {"00000000": {"given": "5", "label": "1"}}}, "must have the label '5', but in arrays it has '0'"),
        ({"relabel": {"00000000": {"given": "0", "label": "1"}}, "drop": ["00000000"]}, "both relabelled and left out"),
    ],
)
def test_a_list_of_other_data_is_one_line(tmp_path, change, text):
    file = tmp_path / "relabel.json"
    file.write_text(json.dumps({"format": 1, "relabel": {}, "drop": []} | change))
    source = ArraySource(PIXELS[:9], LABELS[:9] % 5, tuple("012345"))
    refused(text, pack, source, tmp_path / "out", relabel=file)
    assert not (tmp_path / "out").exists()


def test_labels_of_another_kind_are_refused(tmp_path):
    file = listed(tmp_path / "relabel.json", {})
    source = ArraySource(PIXELS[:9], np.zeros(9, np.float32), label_kind="value")
    refused("needs one class of each row", pack, source, tmp_path / "out", relabel=file)
