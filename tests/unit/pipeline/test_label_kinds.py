"""Labels of four kinds, from every source to the batch."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drawstream import ArraySource, Catalog, IndexStream, Loader, StreamDataLoader, index, open_source, pack, verify
from drawstream.pipeline.labels import PARSERS, as_kind, kind_of, marks_array, says_other
from drawstream.pipeline.shards import Selection
from drawstream.pipeline.sources.given_labels import number_labels
from shared.programs import cli
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, encoded, write_files, write_tar

PNG = encoded(PIXELS[0], "png")
N = 60
MARKS = (np.random.default_rng(0).random((N, 3)) < 0.4).astype(np.uint8)
VALUES = np.random.default_rng(1).normal(size=(N, 2)).astype(np.float32)
KINDS = {"class": LABELS[:N].astype(np.int64), "multi": MARKS, "value": VALUES, "none": np.zeros((N, 0), np.int64)}


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_from_arrays_to_the_batch_and_back_from_the_shards(tmp_path, kind):
    """A packed catalog, one indexed from its shards, and both loaders give the labels of the arrays."""
    source = ArraySource(PIXELS[:N], LABELS[:N] if kind == "none" else KINDS[kind], label_kind=kind)
    result = pack(source, tmp_path / "a", holdout=10, shard_rows=20)
    assert not pack(source, tmp_path / "a", holdout=10, shard_rows=20).ran
    for part in (result.train, result.holdout):
        catalog = Catalog.open(part)
        rows = [int(key) for key in catalog.keys]
        assert catalog.label_kind == kind and catalog.label.dtype == KINDS[kind].dtype
        assert np.array_equal(catalog.label, KINDS[kind][rows]) and verify(catalog) == []
        label = "label.npy" if kind in ("multi", "value") else None
        again = Catalog.open(
            index(part, selection=Selection(label=label, kind=kind), out=tmp_path / "b", overwrite=True)
        )
        assert np.array_equal(again.label, catalog.label) and verify(again) == []
        assert again.label_kind == kind and again.num_classes == catalog.num_classes
        loader = Loader(catalog, IndexStream(len(catalog), seed=1), batch_size=16)
        for batch in loader:
            assert batch.labels.dtype == torch.from_numpy(catalog.label.copy()).dtype
            assert np.array_equal(batch.labels.numpy(), catalog.label[batch.ids.numpy()])
            assert batch.labels.shape == (len(batch.ids), *catalog.label.shape[1:])
        loader.close()
        pairs = list(zip(torch.arange(len(catalog)), torch.from_numpy(catalog.label.copy()), strict=True))
        for _, labels in StreamDataLoader(pairs, IndexStream(len(catalog), seed=1), batch_size=16):
            assert (
                labels.dtype == torch.from_numpy(catalog.label.copy()).dtype
                and labels.shape[1:] == batch.labels.shape[1:]
            )


def test_a_label_that_was_altered_in_a_shard_is_found(tmp_path):
    for kind, new in (("multi", 1 - MARKS[0]), ("value", VALUES[0] + 1)):
        catalog = Catalog.open(pack(ArraySource(PIXELS[:1], KINDS[kind][:1]), tmp_path / kind).train)
        path = catalog.shard_path(0)
        path.write_bytes(path.read_bytes().replace(npy(KINDS[kind][0]), npy(new)))
        found = verify(catalog)
        assert [each.kind for each in found] == ["bytes", "label"]
        assert f"label must be {KINDS[kind][0].tolist()}, but its shard says {new.tolist()}" in found[1].message


@pytest.mark.parametrize(
    ("labels", "kind", "expected", "told"),
    [
        (np.arange(4), None, "class", ""),
        (np.array([[0, 1], [1, 1]]), None, "multi", "several classes"),
        (np.array([[0.0, 1], [0, 0]]), None, "multi", "several classes"),
        (np.array([0.5, 1]), None, "value", "have decimals"),
        (np.array([[0.5, 1]]), None, "value", "have decimals"),
        (np.eye(3), "class", "class", ""),
        (np.eye(3, dtype=bool), "multi", "multi", ""),
        (np.arange(4), "value", "value", ""),
        (np.arange(4.0)[:, None], "class", "class", ""),
        (np.array(list("ab")), "none", "none", ""),
    ],
)
def test_the_kind_that_arrays_say(labels, kind, expected, told):
    found, note = as_kind(labels, kind)
    assert kind_of(found) == expected and (told in note) and bool(told) == bool(note)
    if expected != "none":
        plain = labels.argmax(1) if kind == "class" and labels.shape == (3, 3) else labels
        assert np.array_equal(found.reshape(-1), np.asarray(plain, found.dtype).reshape(-1))


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (
            np.eye(3, dtype=int),
            None,
            r"one class each \(class\), or several at once \(multi\)\? say",
        ),
        (
            np.arange(4.0),
            None,
            r"or it must be said .*--label-kind \(class, multi, value\)",
        ),
        (np.arange(6).reshape(3, 2), None, "it must be said what they are, but got int64"),
        (np.array([1, None]), None, "they are Python objects: give numbers in an array of one type"),
        (np.array(["a", "b"]), None, r"np\.unique"),
        (np.zeros((2, 3, 4)), "multi", r"got float64 \(2, 3, 4\)"),
        (np.arange(3), "multi", r"must be 0 and 1 \(rows, classes\), but got int64 \(3,\)"),
        (np.array([0.5]), "class", "must be whole, but some labels have decimals"),
        (np.array([[1, 1]]), "class", "must have one 1 in each row"),
    ],
)
def test_arrays_that_are_unclear_or_wrong_are_refused(labels, kind, text):
    refused(text, as_kind, labels, kind)


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (np.array([[np.nan], [0.5]]), None, r"arrays: values must be finite float32, but row 0 has \[nan\]"),
        (np.array([[1e39], [0.5]]), None, r"arrays: values must be finite float32, but row 0 has \[inf\]"),
        (np.zeros((2, 3), int), "class", "arrays: classes .* must have one 1"),
    ],
)
def test_sources_refuse_such_labels(labels, kind, text):
    refused(text, ArraySource, PIXELS[:2], labels, label_kind=kind)


def test_what_only_classes_can_have_is_refused(tmp_path):
    source = ArraySource(PIXELS[:N], MARKS)
    refused(
        r"arrays: label noise \(--label-noise\) needs one class of each row, but the labels are of kind multi",
        pack,
        source,
        tmp_path / "a",
        label_noise=0.1,
    )
    refused(r"arrays: a long tail \(--long-tail\) needs one class", pack, source, tmp_path / "a", long_tail=10)
    refused(
        "clean_labels are true classes, but labels are of kind value",
        ArraySource,
        PIXELS[:N],
        VALUES,
        clean_labels=LABELS[:N],
    )


def shard(path, extension, *contents):
    return write_tar(
        path,
        *[(f"{i}.{end}", data) for i, each in enumerate(contents) for end, data in (("png", PNG), (extension, each))],
    )


@pytest.mark.parametrize(
    ("kind", "label", "contents", "names", "expected"),
    [
        ("multi", None, ["2", "0;1", "0,2"], "012", [[0, 0, 1], [1, 1, 0], [1, 0, 1]]),
        ("multi", "txt", ["big dog; cat", "cat", "a\ncat"], ("a", "big dog", "cat"), [[0, 1, 1], [0, 0, 1], [1, 0, 1]]),
        ("multi", "json:a.b", ['{"a": {"b": ["x", "y"]}}', '{"a": {"b": []}}'], "xy", [[1, 1], [0, 0]]),
        ("multi", "json:a.b", ['{"a": {"b": "y"}}', '{"a.b": ["x"]}'], "xy", [[0, 1], [1, 0]]),
        ("multi", "json", ['{"label": [true, false]}', '{"label": [1, 1, 2]}'], None, "numbers of every class"),
        ("multi", "json", ["[1, 0, 1]", "[0, 0, 0]", "[1, 1, 1]"], "012", [[1, 0, 1], [0, 0, 0], [1, 1, 1]]),
        ("multi", "npy", [npy(np.array([True, False])), npy(np.array([0, 0], np.uint8))], "01", [[1, 0], [0, 0]]),
        ("multi", "npy", [npy(np.array([3])), npy(np.array([1, 3]))], "0123", [[0, 0, 0, 1], [0, 1, 0, 1]]),
        ("value", None, ["0.5", "-3", "1e3"], ("value",), [[0.5], [-3], [1000]]),
        ("value", "txt", ["0.5 1", "2; 3", "4,5"], ("value0", "value1"), [[0.5, 1], [2, 3], [4, 5]]),
        ("value", "json:y", ['{"y": 0.25}', '{"y": [1]}', '{"y": "2.5"}'], ("value",), [[0.25], [1], [2.5]]),
        ("value", "npy", [npy(np.float64(0.1)), npy(np.array([7]))], ("value",), [[np.float32(0.1)], [7]]),
        ("class", "npy", [npy(np.int32(1)), npy(np.array([0]))], "01", [1, 0]),
        ("none", None, ["x", "y z"], "", [[], []]),
    ],
)  # fmt: skip
def test_labels_of_shards(tmp_path, kind, label, contents, names, expected):
    extension = (label or "cls").partition(":")[0]
    path = shard(tmp_path / "a.tar", extension, *contents)
    if names is None:
        with pytest.raises(ValueError, match=r"sample '1'|0 and 1 of every class must be there in every row"):
            index(path, selection=Selection(label=label, kind=kind))
        return
    catalog = Catalog.open(index(path, selection=Selection(label=label, kind=kind)))
    assert catalog.classes == tuple(names) and catalog.label.tolist() == expected and catalog.label_kind == kind
    assert verify(catalog) == []


@pytest.mark.parametrize(
    ("kind", "extension", "content", "text"),
    [
        ("value", "cls", "cat", "must hold a number or a list of numbers, but got b'cat': repair it"),
        ("value", "cls", "", "but got b'': repair it, or leave it out (--skip-empty)"),
        ("value", "json", "[1, null]", "repair it, or leave it out"),
        ("value", "json", "[true]", "must hold a number or a list of numbers"),
        ("value", "cls", "nan", "but got NaN, a missing value"),
        ("value", "cls", "1e39", "within float32"),
        ("value", "cls", "1 2", "every row must have 1 values, but this one has 2"),
        ("multi", "cls", "", "must hold a class number or name, but got b''"),
        ("multi", "cls", "1;0.5", "must hold a class number or name, but got '0.5'"),
        ("multi", "cls", "1;cat", "labels must all be numbers or all be names, but got 'cat' after"),
        ("multi", "npy", npy(np.array([0.5])), "must hold a class number or name, but got 0.5"),
        ("multi", "npy", npy(np.zeros((2, 2))), "must hold numbers (columns,), but got float64 (2, 2)"),
        ("multi", "npy", b"no array", "is not a readable array"),
        ("class", "json", "[1]", "but got [1]: give one whole number or a name, choose another source"),
    ],
)  # fmt: skip
def test_bad_labels_of_shards(tmp_path, kind, extension, content, text):
    first = {"npy": npy(np.array([1]))}.get(extension, "1")
    path = shard(tmp_path / "a.tar", extension, first, content)
    with pytest.raises(ValueError) as caught:
        index(path, selection=Selection(label=extension, kind=kind))
    assert "a.tar: sample '1': " in str(caught.value) and text in str(caught.value) and "\n" not in str(caught.value)


def test_classes_that_are_given(tmp_path):
    path = shard(tmp_path / "a.tar", "cls", "a;b", "c")
    with pytest.raises(ValueError, match=r"sample '1': label must be one of 2 classes, but got 'c'"):
        index(path, selection=Selection(kind="multi"), classes=("a", "b"))
    catalog = Catalog.open(index(path, selection=Selection(kind="multi"), classes=("c", "b", "a")))
    assert catalog.label.tolist() == [[0, 1, 1], [1, 0, 0]]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=8).filter(lambda rows: any(rows)))
def test_names_become_marks_and_back(rows):
    names, marks = marks_array([PARSERS["multi"](each, "x", b"") for each in rows], None)
    assert [{names[c] for c in np.flatnonzero(mark)} for mark in marks] == [set(each) for each in rows]
    assert all(not says_other(tuple(each), mark, names) for each, mark in zip(rows, marks, strict=True))


@pytest.fixture
def photos(tmp_path):
    return write_files(tmp_path / "photos", dict.fromkeys(("a/1.png", "a/2.png", "b/3.png", "b/1.png"), PNG))


def labelled(photos, text, kind=None):
    table = photos.parent / "labels.csv"
    table.write_text(text)
    return open_source(photos, labels=table, label_kind=kind)


@pytest.mark.parametrize(
    ("text", "kind", "names", "expected"),
    [
        ("file,label\na/1.png,cat\na/2.png,dog\nb/1.png,cat\nb/3.png,ant\n", None, ("ant", "cat", "dog"), [1, 2, 1, 0]),
        ("label,path\n1,a/1\n0,2.png\n3,b/1.png\n0,3\n", None, "0123", [1, 0, 3, 0]),
        ("file,tags\na/1.png,x;y\n2,\nb/1,y\n3,x\n", None, "xy", [[1, 1], [0, 0], [0, 1], [1, 0]]),
        ("file,tags\na/1.png,x\n2,x\nb/1,y\n3,x\na/1.png,y\n", None, "xy", [[1, 1], [1, 0], [0, 1], [1, 0]]),
        ("file,cat,dog\na/1.png,1,0\n2,0,0\nb/1,1,1\n3,0,1\n", None, ("cat", "dog"), [[1, 0], [0, 0], [1, 1], [0, 1]]),
        ("file,x\na/1.png,0.5\n2,1\nb/1,2\n3,3\n", None, ("value",), [[0.5], [1], [2], [3]]),
        ("file,x,y\na/1.png,0.5,0\n2,1,1\nb/1,2,0\n3,3,1\n", None, "xy", [[0.5, 0], [1, 1], [2, 0], [3, 1]]),
        ("file,x\na/1.png,5\n2,1\nb/1,2\n3,3\n", "value", ("value",), [[5], [1], [2], [3]]),
        ("file,x,y\na/1.png,1,0\n2,1,1\nb/1,0,0\n3,0,1\n", "value", "xy", [[1, 0], [1, 1], [0, 0], [0, 1]]),
        ("file,x,y\na/1.png,1,0\n2,1,0\nb/1,0,1\n3,0,1\n", "class", "xy", [0, 0, 1, 1]),
        ("file,x\na/1.png,5\n2,1\nb/1,2\n3,3\n", "none", (), [[], [], [], []]),
    ],
)
def test_tables_of_labels(photos, tmp_path, text, kind, names, expected):
    source = labelled(photos, text, kind)
    assert source.classes == tuple(names) and source.labels.tolist() == expected
    assert [source.key(row) for row in range(4)] == ["a/1", "a/2", "b/1", "b/3"]
    guessed = kind is None and kind_of(source.labels) != "class"
    assert guessed == (f"--label-kind {kind_of(source.labels)}" in " ".join(source.notes))
    catalog = Catalog.open(pack(source, tmp_path / "out").train)
    assert verify(catalog) == [] and sorted(catalog.keys) == ["a/1", "a/2", "b/1", "b/3"]
    assert np.array_equal(catalog.label[np.argsort(catalog.keys)], source.labels)


@pytest.mark.parametrize(
    ("text", "kind", "error"),
    [
        ("file,label\na/1.png,cat\na/2.png,\n", None, "row 2, column 'label': must have a label, but got ''"),
        ("file,label\na/1.png,cat\na/2.png,0.5\n", "class", "row 2, column 'label' must hold a class number or name"),
        ("file,label\n1,cat\n", None, r"'1' names several images, a/1\.png and b/1\.png: give the path in"),
        ("file,label\nx,cat\ny,dog\n", None, "none of its 2 rows names an image in .*, such as 'x' in column 'file'"),
        ("file,label\na/1,cat\na/1.png,dog\n", "class", "row 2 is the second of one image"),
        ("file,label\na/1,cat\na/2.png,3\n", None, "labels must all be numbers or all be names"),
        ("file,x,y\na/1,1,\na/2,0,1\n", None, "row 1, column 'y': must hold a number, but is empty"),
        ("file,x,y\na/1,1,b\na/2,0,c\n", None, "several columns must hold numbers, but 'y' hold text"),
        ("file\na/1\n", None, "must have a column of images and one of labels, but got file"),
    ],
)
def test_bad_tables_are_refused(photos, text, kind, error):
    with pytest.raises(ValueError, match=error) as caught:
        labelled(photos, text, kind)
    assert "labels.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\na/1.png,cat\nb/3.png,dog\na/1,cat\na/1.png, cat\n", [0, 1]),
        ("file,x,y\na/1.png,0.5,1\nb/3.png,3,2\na/1,0.5,1\na/1.png,0.5,1.0\n", [[0.5, 1], [3, 2]]),
    ],
)
def test_a_row_that_is_repeated_is_taken_once_and_told(photos, text, expected):
    source = labelled(photos, text)
    assert source.labels.tolist() == expected
    assert source.notes[0].endswith("labels.csv: rows that repeat another with the same label are taken once: 2")


def test_labels_of_minus_one_are_told_to_be_none(tmp_path):
    told = refused("2 of 4 rows have the label -1", number_labels, np.array([0, -1, 1, -1]), 4, None, (), "train")
    assert "train: " in told and "--label-kind none" in told
    values, _, _ = number_labels(np.array([0, -1]), 2, "value", (), "train")
    assert values.tolist() == [[0], [-1]]


def test_what_a_table_leaves_out_is_told(photos):
    source = labelled(photos, "file,label,split\na/1.png,cat,x\nb/3.png,dog,y\nno.png,dog,y\n")
    assert source.left_out.lines == [
        f"1 rows of {photos.parent / 'labels.csv'} without an image: no.png",
        f"2 images without a label in {photos.parent / 'labels.csv'}: a/2.png, b/1.png",
    ]
    assert source.notes == (f"{photos.parent / 'labels.csv'}: columns that are not taken: split",)


def test_commands(photos, tmp_path):
    (photos / "labels.csv").write_text("file,tags\na/1.png,x;y\na/2.png,\nb/1.png,y\nb/3.png,x\n")
    told = cli("pack", photos, tmp_path / "out", "--labels", photos / "labels.csv")
    assert "column 'tags' is taken as several classes of an image (--label-kind multi)" in told
    assert "1 of 4 images have none of the 2 labels" in told and "not taken" not in told
    assert Catalog.open(tmp_path / "out").label_kind == "multi"
    cli("pack", photos, tmp_path / "none", "--label-kind", "none")
    assert Catalog.open(tmp_path / "none").label_kind == "none" and len(Catalog.open(tmp_path / "none")) == 4
    done = cli(
        "index",
        tmp_path / "out",
        "-o",
        tmp_path / "again",
        "--label",
        "label.npy",
        "--label-kind",
        "multi",
        "--json",
        tmp_path / "x.json",
    )
    assert "4 images in 1 shards, 2 classes" in done
    assert json.loads((tmp_path / "x.json").read_text())["label_kind"] == "multi"
    told = cli("pack", photos, tmp_path / "x", "--label-kind", "value", status=2)
    assert "class folders give one class each, not value: give a table with --labels" in told


def test_label_noise_from_a_file(tmp_path):
    """`--noise labels.npy` is the same as a rate, with these labels; the holdout has the true ones."""
    wrong = np.where(np.arange(N) % 3 == 0, (LABELS[:N] + 1) % 10, LABELS[:N])
    np.savez(tmp_path / "digits.npz", images=PIXELS[:N], labels=LABELS[:N])
    np.save(tmp_path / "wrong.npy", wrong)
    cli("pack", tmp_path / "digits.npz", tmp_path / "out", "--holdout", 10, "--noise", tmp_path / "wrong.npy")
    train, held = Catalog.open(tmp_path / "out" / "train"), Catalog.open(tmp_path / "out" / "holdout")
    rows = [int(key) for key in train.keys]
    assert (train.label == wrong[rows]).all() and (train.clean_label == LABELS[rows]).all()
    assert (held.label == LABELS[[int(key) for key in held.keys]]).all() and held.clean_label is None
    source = open_source(tmp_path / "digits.npz")
    assert not pack(source, tmp_path / "out", holdout=10, label_noise=wrong).ran
    refused("holds a pack with label_noise", pack, source, tmp_path / "out", holdout=10, label_noise=LABELS[:N] * 0)
    for labels, text in (
        (wrong[:5], r"must be integers \(60,\)"),
        (wrong + 1, r"must lie in 0 … 9, but got 1"),
    ):
        refused(text, pack, source, tmp_path / "other", label_noise=labels)
    for noise, text in (("x.npy", "no such file"), ("abc", "must be a rate such as 0.4 or a file such as labels.npy")):
        assert text in cli("pack", tmp_path / "digits.npz", tmp_path / "other", "--noise", noise, status=2)


def test_images_keep_their_bytes(photos, tmp_path):
    catalog = Catalog.open(pack(labelled(photos, "file,label\na/1.png,0\n"), tmp_path / "out").train)
    image = Image.open(io.BytesIO(catalog.shard_path(0).read_bytes()[catalog.offset[0] :]))
    assert np.array_equal(np.asarray(image), PIXELS[0])
