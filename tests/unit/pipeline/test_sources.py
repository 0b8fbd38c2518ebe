"""Sources: what each kind gives, CIFAR and SVHN as published, and one line for every kind of bad input."""

import gzip
import io
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from drawstream import open_source
from drawstream.pipeline.sources.source import FASHION_MNIST, FASHION_MNIST_CLASSES, ArraySource, read_idx
from drawstream.tools.cli.app import main
from shared.refusals import refused
from shared.samples import DIGITS, LABELS, PHOTOS, PIXELS


def idx(array, *, magic=None):
    head = struct.pack(">I", magic or 0x800 | array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    for name, rows in (("train", slice(0, 100)), ("t10k", slice(100, 150))):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS[rows])))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[rows])))
    return tmp_path


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "photos"
    for name, photo in (("flower", "flower.jpg"), ("temple", "china.jpg")):
        (folder / name).mkdir(parents=True)
        shutil.copy(PHOTOS / photo, folder / name)
    return folder


def test_idx_splits(idx_folder):
    train, test = open_source(idx_folder), open_source(str(idx_folder), split="test")
    assert (len(train), len(test)) == (100, 50)
    assert (train.read(7) == PIXELS[7]).all() and test.labels[3] == LABELS[103]
    assert train.key(7) == "00000007" and train.classes == tuple("0123456789")


def test_idx_by_prefix_and_by_file(idx_folder):
    for path in ("t10k", "t10k-images-idx3-ubyte.gz"):
        assert len(open_source(idx_folder / path)) == 50


def test_idx_uncompressed_with_names(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(PIXELS))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(LABELS))
    source = open_source(tmp_path, classes=[f"digit {c}" for c in range(10)])
    assert len(source) == 1797 and source.classes[3] == "digit 3"


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist():
    test = open_source(FASHION_MNIST, split="test", classes=FASHION_MNIST_CLASSES)
    assert (np.bincount(test.labels) == 1000).all()
    assert test.read(0).shape == (28, 28) and test.classes[test.labels[0]] == "Ankle boot"


IDX_IMAGES, IDX_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (IDX_IMAGES, lambda b: b[: len(b) // 2], "damaged or truncated gzip file"),
        (IDX_IMAGES, lambda b: gzip.compress(gzip.decompress(b)[:-1]), "header says .*: fetch it again"),
        (IDX_IMAGES, lambda b: gzip.compress(gzip.decompress(b) + b"x"), "header says .*: fetch it"),
        (IDX_IMAGES, lambda b: b"", "magic number must be 0x00000803 .*, but got 0x00000000"),
        (IDX_IMAGES, lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:], "train-images"),
        (IDX_IMAGES, lambda b: idx(LABELS), "0x00000801: images and labels have changed their names: rename"),
        (IDX_IMAGES, lambda b: idx(PIXELS[..., None]), "but got 0x00000804: read it yourself, and np.savez"),
        (IDX_IMAGES, lambda b: idx(PIXELS, magic=0x0C03), "but got 0x00000c03: read it yourself, and np.savez"),
        (IDX_IMAGES, lambda b: b"nothing of the kind", "it is no IDX file, or damaged: fetch it again"),
        (IDX_IMAGES, lambda b: gzip.compress(gzip.compress(idx(PIXELS))), "is compressed twice: decompress it once"),
        (IDX_LABELS, lambda b: idx(PIXELS[:100]), "magic number must be 0x00000801 .*0x00000803"),
        (IDX_LABELS, lambda b: idx(LABELS[:99]), "but got 100 images and 99 labels"),
    ],
)
def test_damaged_idx(idx_folder, name, change, text):
    file = idx_folder / f"{name}.gz"
    file.write_bytes(change(file.read_bytes()))
    assert str(idx_folder) in refused(text, open_source, idx_folder)


def test_missing_idx_parts(idx_folder):
    def refuse(text, **options):
        refused(text, open_source, idx_folder, error=(FileNotFoundError, ValueError), **options)

    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    refuse(r"t10k-labels-idx1-ubyte\.gz: no such file, nor without \.gz", split="test")
    (idx_folder / "t10k-images-idx3-ubyte.gz").rename(idx_folder / "kept")
    refuse("holds IDX files, but none of split 'test'", split="test")
    refuse("split must be train or test, but got 'val'", split="val")
    for file in idx_folder.glob("train*"):
        file.unlink()
    (idx_folder / "kept").rename(idx_folder / "t10k-images-idx3-ubyte.gz")
    refuse(r"but got t10k-images.*: take them with --split test")
    refused("no such file", read_idx, idx_folder / "nothing", error=FileNotFoundError, dims=1)


def test_true_labels_of_an_archive(tmp_path):
    np.savez(tmp_path / "digits.npz", images=PIXELS, labels=9 - DIGITS.target, clean_labels=DIGITS.target)
    source = open_source(tmp_path / "digits.npz")
    assert (source.clean_labels == DIGITS.target).all() and len(source.classes) == 10 and not source.left_out.reasons
    for clean, text in (
        (DIGITS.target[:9], r"clean_labels must be integers \(1797,\), as labels, but got int64 \(9,\)"),
        (DIGITS.target / 2, "but got float64"),
        (DIGITS.target - 1, r"clean_labels must lie in 0 … 9, the classes of labels, but got -1 … 8: repair them"),
        (DIGITS.target + 1, r"clean_labels must lie in 0 … 9, the classes of labels, but got 1 … 10: repair them"),
    ):
        refused(text, ArraySource, PIXELS, DIGITS.target, clean_labels=clean)
        refused(text, ArraySource, PIXELS, DIGITS.target, tuple("0123456789"), clean_labels=clean)


def test_npz_and_npy(tmp_path):
    np.savez_compressed(tmp_path / "digits.npz", images=PIXELS, labels=LABELS)
    np.save(tmp_path / "images.npy", PIXELS[..., None])
    np.save(tmp_path / "labels.npy", LABELS)
    shutil.copy(tmp_path / "digits.npz", tmp_path / "A.NPZ")
    for path in (tmp_path / "digits.npz", tmp_path / "A.NPZ", tmp_path):
        source = open_source(path)
        assert len(source) == 1797 and source.read(5).shape == (8, 8)


def test_bad_numpy_files(tmp_path):
    def refuse(name, text):
        refused(text, open_source, tmp_path / name, error=(FileNotFoundError, ValueError))

    np.savez(tmp_path / "a.npz", images=PIXELS)
    refuse("a.npz", r"a\.npz: must hold images and labels, but labels is missing")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:1000])
    refuse("b.npz", r"b\.npz: not a readable NumPy file")
    np.savez(tmp_path / "c.npz", images=PIXELS, labels=np.array([object()] * 1797))
    refuse("c.npz", r"c\.npz: holds Python objects \(dtype object\), which are not read: save arrays of numbers")
    refuse("d.npz", "no such file")
    np.savez(tmp_path / "keras.npz", x_train=PIXELS, y_train=LABELS)
    refuse("keras.npz", r"labels are missing among its arrays \(x_train, y_train\): a = np")
    np.save(tmp_path / "labels.npy", LABELS)
    refuse(".", r"images\.npy: no such file")
    np.save(tmp_path / "images.npy", PIXELS)
    damaged = (tmp_path / "images.npy").read_bytes().replace(b"}", b"(", 1)  # a header that is no Python
    for content in (b"\x93NUMPY", damaged):
        (tmp_path / "images.npy").write_bytes(content)
        refuse(".", r"images\.npy: not a readable NumPy file")


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (DIGITS.images, LABELS, "images must be uint8, but got float64: scale them"),
        (PIXELS[0], LABELS[:8], r"images must be \(rows, height, width\).*but got \(8, 8\)"),
        (np.zeros((5, 4, 4, 2), np.uint8), np.arange(5), r"but got \(5, 4, 4, 2\)"),
        (np.zeros((5, 3, 8, 8), np.uint8), np.arange(5), r"images\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((5, 8, 8, 4), np.uint8), np.arange(5), r"leave alpha out, images\[\.\.\., :3\]"),
        (np.zeros((5, 64), np.uint8), np.arange(5), r"images\.reshape\(rows, height, width\)"),
        (PIXELS, LABELS[:-1], "but got 1797 images and 1796 labels"),
        (PIXELS[:0], LABELS[:0], "but got 0 images and 0 labels"),
        (PIXELS, LABELS.astype(float), "labels must be integers .*, but got float64"),
        (PIXELS, LABELS - 1, "labels must lie in 0 … 8, but got -1 … 8|rows have the label -1"),
        (PIXELS[:5], np.zeros((5, 1), int), r"reshape\(-1\)"),
        (PIXELS[:5], np.eye(5, dtype=int), r"argmax\(1\)"),
        (PIXELS[:5], list("abcde"), r"np\.unique"),
    ],
)
def test_bad_arrays(images, labels, text):
    refused(text, ArraySource, images, labels)


def test_image_folder_keeps_bytes(image_folder):
    for hidden in ("notes.txt", "._flower.jpg"):
        (image_folder / "flower" / hidden).write_text("passed over")
    Image.fromarray(PIXELS[0]).save(image_folder / "flower" / "a.b.PNG", "png")
    source = open_source(image_folder)
    assert source.classes == ("flower", "temple") and source.labels.tolist() == [0, 0, 1]
    assert [source.key(row) for row in range(3)] == ["flower/a_b", "flower/flower", "temple/china"]
    assert source.read(2) == (PHOTOS / "china.jpg").read_bytes()


def test_bad_image_folders(image_folder):
    refused("no such file or folder", open_source, image_folder / "nowhere", error=FileNotFoundError)
    refused("no IDX or NumPy files and no class folders in it", open_source, image_folder / "flower")
    refused("not a source: give a folder", open_source, image_folder / "flower" / "flower.jpg")
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "png")
    (image_folder / "flower" / "flower.png").write_bytes(buffer.getvalue())
    refused(r"flower\.png: same key 'flower/flower' as .*flower\.jpg: rename", open_source, image_folder)
    (image_folder / "empty").mkdir()
    refused(r"empty: class folder without \.jpg.*: remove it or fill it", open_source, image_folder)


def test_nested_class_folders_say_where_to_look(image_folder):
    source = open_source(image_folder.parent)
    assert source.classes == ("photos",) and source.key(0) == "photos/flower/flower" and len(source) == 2
    assert source.notes == (
        f"{image_folder.parent}: the classes are photos, but all images lie in folders below them (flower, temple, …): "
        f"if those are the classes, give {image_folder}",
    )
    root = image_folder.rename(image_folder.parent / "train").parent
    shutil.copytree(root / "train", root / "val")
    assert open_source(root).notes == (
        f"{root} holds splits, not classes: pack {root / 'train'} and {root / 'val'} separately",
    )


def test_what_lies_beside_idx_files_is_told(idx_folder, capsys):
    (idx_folder / "train-images-idx3-ubyte").write_bytes(idx(255 - PIXELS[:100]))
    (idx_folder / "photos").mkdir()
    source = open_source(idx_folder)
    assert (source.read(0) == 255 - PIXELS[0]).all()
    assert source.left_out.reasons["files or arrays beside images and labels"] == (
        4, ["photos", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"]
    )  # fmt: skip
    for path in ("train", "train-images-idx3-ubyte"):
        assert open_source(idx_folder / path).left_out.lines == [
            "1 files or arrays beside images and labels: train-images-idx3-ubyte.gz"
        ]
    assert main(["pack", str(idx_folder), str(idx_folder / "out")]) == 0
    assert "not taken: 4 files or arrays beside images and labels: photos, t10k-" in capsys.readouterr().out


RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
FLAT = COLOUR.transpose(0, 3, 1, 2).reshape(6, 3072)
CLASSES = [3, 0, 9, 1, 1, 5]
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
    rows = np.hstack([np.array(CLASSES, np.uint8)[:, None], FLAT])
    rows[:4].tofile(to / "data_batch_1.bin")
    rows[4:].tofile(to / "data_batch_2.bin")
    (to / "batches.meta.txt").write_text("\n".join(name.replace(" ", "_") for name in TEN) + "\n\n")


def write_ten_python(to, protocol=None):
    for number, part in (("1", slice(0, 4)), ("2", slice(4, 6))):
        batch = {b"data": FLAT[part], b"labels": CLASSES[part], b"filenames": [b"a.png"]}
        raw = python2(FLAT[part], CLASSES[part]) if protocol is None else pickle.dumps(batch, protocol)
        (to / f"data_batch_{number}").write_bytes(raw)
    (to / "batches.meta").write_bytes(pickle.dumps({"label_names": TEN}, protocol or 2))


def write_hundred_binary(to):
    head = np.array([[7, label] for label in CLASSES], np.uint8)
    np.hstack([head, FLAT]).tofile(to / "train.bin")
    (to / "fine_label_names.txt").write_text("\n".join(TEN).replace(" ", "_"))


def write_hundred_python(to):
    (to / "train").write_bytes(python2(FLAT, CLASSES, "fine_labels"))
    (to / "meta").write_bytes(pickle.dumps({"fine_label_names": TEN, "coarse_label_names": ["x"]}, 2))


def write_svhn(to):
    digits = np.array([[label or 10] for label in CLASSES], np.uint8)
    savemat(to / "train_32x32.mat", {"X": COLOUR.transpose(1, 2, 3, 0), "y": digits})


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
    assert source.labels.tolist() == CLASSES
    assert all(np.array_equal(source.read(row), COLOUR[row]) for row in range(6))
    names = tuple("0123456789") if layout == "SVHN" else tuple(TEN)
    assert tuple(name.replace("_", " ") for name in source.classes) == names
    refused("--split train", open_source, tmp_path, error=FileNotFoundError, split="test")


def test_a_file_of_svhn_is_a_source_whatever_its_split(tmp_path):
    write_svhn(tmp_path)
    extra = (tmp_path / "train_32x32.mat").rename(tmp_path / "extra_32x32.mat")
    assert open_source(extra).labels.tolist() == CLASSES


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
    refused(r"data_batch_2: .*posix\.system", open_source, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "another", "wide", "labels"])
def test_a_damaged_batch_is_named(tmp_path, damage):
    write_ten_python(tmp_path)
    file = tmp_path / "data_batch_2"
    whole = file.read_bytes()
    other = {"another": [1, 2], "wide": {"data": FLAT[:, :12], "labels": [1]}, "labels": {"data": FLAT, "labels": "x"}}
    content = {"cut": whole[:2000], "empty": b""}.get(damage) if damage not in other else pickle.dumps(other[damage], 2)
    file.write_bytes(content)
    refused(r"data_batch_2: ", open_source, tmp_path)


def test_a_binary_batch_of_another_length_is_named(tmp_path):
    write_ten_binary(tmp_path)
    with (tmp_path / "data_batch_1.bin").open("ab") as file:
        file.write(b"x")
    refused(r"data_batch_1\.bin: .*rows of 3073 bytes.*12293", open_source, tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"x" * 1000])
def test_a_damaged_file_of_svhn_is_named(tmp_path, content):
    (tmp_path / "train_32x32.mat").write_bytes(content)
    refused(r"train_32x32\.mat: not a readable MATLAB file", open_source, tmp_path)


def test_a_folder_with_a_file_named_train_is_no_cifar(tmp_path):
    (tmp_path / "train").write_text("cats dogs")
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        open_source(tmp_path)
    assert "CIFAR" not in str(raised.value)
