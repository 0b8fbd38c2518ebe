"""CIFAR and SVHN as published: every layout gives the same images; pickles run nothing."""

import pickle

import numpy as np
import pytest
from scipy.io import savemat

from drawstream import open_source

RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
FLAT = IMAGES.transpose(0, 3, 1, 2).reshape(6, 3072)
LABELS = [3, 0, 9, 1, 1, 5]
TEN = [f"class {n}" for n in range(10)]


def python2(data: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """A batch as Python 2 pickled it: its strings are neither text nor bytes of Python 3."""
    rows, width = (len(data)).to_bytes(4, "little"), (data.shape[1]).to_bytes(4, "little")
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + data.size.to_bytes(4, "little") + data.tobytes()
    state = b"(K\x01J" + rows + b"J" + width + b"\x86" + kind + b"\x89" + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    name = key.encode()
    return b"\x80\x02}(U\x04data" + array + state + b"U" + bytes([len(name)]) + name + numbers + b"u."


def write_ten_binary(to):
    rows = np.hstack([np.array(LABELS, np.uint8)[:, None], FLAT])
    rows[:4].tofile(to / "data_batch_1.bin")
    rows[4:].tofile(to / "data_batch_2.bin")
    (to / "batches.meta.txt").write_text("\n".join(name.replace(" ", "_") for name in TEN) + "\n\n")


def write_ten_python(to, protocol=None):
    for number, part in (("1", slice(0, 4)), ("2", slice(4, 6))):
        batch = {b"data": FLAT[part], b"labels": LABELS[part], b"filenames": [b"a.png"]}
        raw = python2(FLAT[part], LABELS[part]) if protocol is None else pickle.dumps(batch, protocol)
        (to / f"data_batch_{number}").write_bytes(raw)
    (to / "batches.meta").write_bytes(pickle.dumps({"label_names": TEN}, protocol or 2))


def write_hundred_binary(to):
    head = np.array([[7, label] for label in LABELS], np.uint8)
    np.hstack([head, FLAT]).tofile(to / "train.bin")
    (to / "fine_label_names.txt").write_text("\n".join(TEN).replace(" ", "_"))


def write_hundred_python(to):
    (to / "train").write_bytes(python2(FLAT, LABELS, "fine_labels"))
    (to / "meta").write_bytes(pickle.dumps({"fine_label_names": TEN, "coarse_label_names": ["x"]}, 2))


def write_svhn(to):
    digits = np.array([[label or 10] for label in LABELS], np.uint8)
    savemat(to / "train_32x32.mat", {"X": IMAGES.transpose(1, 2, 3, 0), "y": digits})


LAYOUTS = {
    "CIFAR-10 binary": write_ten_binary,
    "CIFAR-10 Python 2": write_ten_python,
    "CIFAR-10 protocol 0": lambda to: write_ten_python(to, 0),
    "CIFAR-10 protocol 4": lambda to: write_ten_python(to, 4),
    "CIFAR-100 binary": write_hundred_binary,
    "CIFAR-100 Python": write_hundred_python,
    "SVHN": write_svhn,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    source = open_source(tmp_path)
    assert len(source) == 6
    assert source.labels.tolist() == LABELS
    assert all(np.array_equal(source.read(row), IMAGES[row]) for row in range(6))
    names = tuple("0123456789") if layout == "SVHN" else tuple(TEN)
    assert tuple(name.replace("_", " ") for name in source.classes) == names
    with pytest.raises(FileNotFoundError, match="--split train"):
        open_source(tmp_path, split="test")


def test_a_file_of_svhn_is_a_source_whatever_its_split(tmp_path):
    write_svhn(tmp_path)
    extra = (tmp_path / "train_32x32.mat").rename(tmp_path / "extra_32x32.mat")
    assert open_source(extra).labels.tolist() == LABELS


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_a_pickle_cannot_run_anything(tmp_path):
    write_ten_python(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({"data": Hostile(f"touch {mark}"), "labels": []}))
    with pytest.raises(ValueError, match=r"data_batch_2: .*posix\.system"):
        open_source(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "another", "wide", "labels"])
def test_a_damaged_batch_is_named(tmp_path, damage):
    write_ten_python(tmp_path)
    file = tmp_path / "data_batch_2"
    whole = file.read_bytes()
    other = {"another": [1, 2], "wide": {"data": FLAT[:, :12], "labels": [1]}, "labels": {"data": FLAT, "labels": "x"}}
    content = {"cut": whole[:2000], "empty": b""}.get(damage) if damage not in other else pickle.dumps(other[damage], 2)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_2: "):
        open_source(tmp_path)


def test_a_binary_batch_of_another_length_is_named(tmp_path):
    write_ten_binary(tmp_path)
    with (tmp_path / "data_batch_1.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: .*rows of 3073 bytes.*12293"):
        open_source(tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"x" * 1000])
def test_a_damaged_file_of_svhn_is_named(tmp_path, content):
    (tmp_path / "train_32x32.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"train_32x32\.mat: not a readable MATLAB file"):
        open_source(tmp_path)


def test_a_folder_with_a_file_named_train_is_no_cifar(tmp_path):
    (tmp_path / "train").write_text("cats dogs")
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        open_source(tmp_path)
    assert "CIFAR" not in str(raised.value)
