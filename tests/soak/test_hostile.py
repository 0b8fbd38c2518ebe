"""Data sets made to do harm: thousands of inputs, each ends with one clear line or the right result.

Every kind runs in a process of its own with bounded memory, which says before each input which one it is: a signal, a
traceback, a message of several lines or of control characters, or an input without end fails the test. `-s` prints how
often each kind ended how; `SOAK` sets the inputs per kind.
"""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drawstream.pipeline import Loader
from drawstream.pipeline.decoding.image import ImageInfo, probe
from drawstream.pipeline.images import Transform
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.catalog import FILE, METADATA, SEAL, Shard, fingerprint, hash_file, seal
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.shards.names import printable
from drawstream.pipeline.verify import verify
from drawstream.samplers.orders import Sequential

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("SOAK", "300"))
MEMORY = 16 << 30  # bytes of address space of a process: DALI and torch alone map several GiB
PATIENCE = 900  # seconds for one kind
PER_SHARD = 60  # images: DALI parses 32 and more in several threads
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
SPECIAL = (0, 1, 0x7F, 0x80, 0xFF, 0xFE, 0xD8, 0xDA, 0xC0, 0xE1, 0xD9)
HUGE = (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 65535, 0xFFFF0000, 0xFFDCFFDC)


def stored(kind, image=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


IMAGES = {
    "jpeg": [stored("jpeg"), stored("jpeg", exif=turned()), stored("jpeg", progressive=True)],
    "png": [stored("png"), stored("png", exif=turned()), stored("png", PIXELS[..., 0].copy())],
    "webp": [stored("webp"), stored("webp", exif=turned()), stored("webp", lossless=True)],
}


PNG = IMAGES["png"][0]


def mutated(content, rng):
    """A file whose head is changed in one to five places, by bytes that mean something to parsers."""
    data = bytearray(content)
    head = min(len(data), int(rng.choice([32, 64, 200, 700, len(data)])))
    for _ in range(int(rng.integers(1, 6))):
        at, size = int(rng.integers(max(1, min(head, len(data))))), int(rng.integers(1, 9))
        match int(rng.integers(8)):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))]) if at < len(data) else b""
            case 1:
                data[at : at + 1] = bytes([int(rng.choice(SPECIAL))])
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at : at + size] = rng.bytes(size)
            case 5:
                data[at : at + 4] = int(rng.choice(HUGE)).to_bytes(4, "big")
            case 6:
                data[at : at + 2] = b"\xff" + bytes([int(rng.integers(0xC0, 256))])
            case _:
                del data[max(1, at * len(data) // head) :]
    return bytes(data) or b"\0"


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read_all(catalog, crop, checksum="always"):
    """One epoch through DALI; how many were replaced."""
    colours = catalog.channels
    transform = Transform((32, 32), (0.0,) * colours, (1.0,) * colours, crop=crop)
    loader = Loader(
        catalog,
        Sequential(0, len(catalog)),
        transform=transform,
        batch_size=64,
        reading=Reading(on_bad="substitute", max_bad=len(catalog), checksum=checksum),
    )
    assert sum(len(batch.ids) for batch in loader) == len(catalog)
    bad = len(loader.bad_samples)
    loader.close()
    return bad


def labelled(images, kind):
    """Members of samples: image and label."""
    return [(f"{i}.{end}", data) for i, image in enumerate(images) for end, data in ((kind, image), ("cls", b"0"))]


def lying_catalog(folder, images, kind, size=(40, 60)):
    """A sealed catalog with right checksums that says of each image what is true of none."""
    path = write_tar(folder / "a.tar", [(f"{i}.{kind}", image) for i, image in enumerate(images)])
    draft = CatalogWriter()
    with tarfile.open(path) as tar:
        for i, (member, image) in enumerate(zip(tar, images, strict=True)):
            draft.add(str(i), 0, member.offset_data, image, ImageInfo(kind, *size, 3))
    shard = Shard("a.tar", path.stat().st_size, hash_file(path))
    labels = np.zeros(len(images), np.int64)
    draft.save(folder / FILE, labels, None, shards=[shard], classes=["0"], provenance={})
    return Catalog.open(folder)


def try_images(kind, number, folder):
    """Mutated images: what `index` takes of them is read, and so is all of them through a catalog that lies."""
    rng = np.random.default_rng([number, *kind.encode()])
    bases = IMAGES[kind]
    images = [mutated(bases[int(rng.integers(len(bases)))], rng) for _ in range(PER_SHARD)]
    taken = []
    for image in images:
        try:
            if probe(image).encoding == kind:
                taken.append(image)
                yield "taken"
            else:
                yield "of another kind"
        except ValueError as error:
            clear(error)
            yield "refused by index"
    (folder / "honest").mkdir()
    catalog = Catalog.open(index(write_tar(folder / "honest" / "a.tar", labelled([*taken, *bases * 14], kind))))
    for crop in ("none", "random"):
        for _ in range(read_all(catalog, crop)):
            yield "refused by the loader"
    (folder / "lying").mkdir()
    catalog = lying_catalog(folder / "lying", images, kind)
    for checksum in ("always", "never"):
        for _ in range(read_all(catalog, "random", checksum=checksum)):
            yield "lie refused by the loader"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bombs():
    """Small files that claim much."""
    most = (1 << 31) - 1
    for height, width in ((65535, 65535), (1 << 31, 1), (most, most), (0, 0), (0, 5), (40_000, 25_000)):
        head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + chunk(b"IEND", b"")
        yield "png", b"\x89PNG\r\n\x1a\n" + body
        jpeg = bytearray(IMAGES["jpeg"][0])
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        yield "jpeg", bytes(jpeg)
        for sign in (1, -1):
            yield "pgm", b"P5\n%d %d\n255\n" % (sign * width, height) + bytes(20)
        side = (16_383).to_bytes(3, "little") * 2
        canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + side
        yield "webp", b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas
    for digits in (10, 19, 400, 5000):
        yield "pgm", b"P5\n" + b"9" * digits + b" 1\n255\n" + bytes(20)


def try_bombs(_kind, number, folder):
    every = list(bombs())
    kind, image = every[number % len(every)]
    if number < len(every):
        index(write_tar(folder / "a.tar", [(f"x.{kind}", image), ("x.cls", b"0")]))
        yield "indexed"
    elif kind in IMAGES:
        yield f"replaced {read_all(lying_catalog(folder, [image, *IMAGES[kind][:1] * 63], kind), 'random')} of 64"


NAMES = (
    "../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "a\nb", "a\x1b[2Jb", "a\x9bb", "a\u202eb", "a\u2066b",
    "x" * 100_000,
    "x" * 5000, "", ".", "/", "a/", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "=cmd|' /C calc'!A0",
    "a\r\nb", "\ud800", "\ufeffa", "a\u200db", "%s%n{0}", "$(touch x)", "-rf", "__meta__/a", "🦊",
)  # fmt: skip


def try_names(_kind, number, folder):
    rng = np.random.default_rng(number)
    name = NAMES[number] if number < len(NAMES) else "".join(chr(int(c)) for c in rng.integers(0, 0x3000, 6))
    form = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[number % 2]
    path = folder / "data" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=form, errors="surrogatepass") as tar:
        for key in (name, "plain"):
            for end, data in (("png", IMAGES["png"][0]), ("cls", b"0")):
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    before = sorted(folder.rglob("*"))
    catalog = Catalog.open(index(path))
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "data" / "catalog.parquet"])
    assert all(printable(key) == key for key in catalog.keys) and verify(catalog) == []
    yield "taken as a key"


def try_tars(_kind, number, folder):
    """Tars whose headers are mutated and sealed again with a right checksum."""
    rng = np.random.default_rng([number, 7])
    files = [(f"{'deep/' * 60 * (i % 4 < 2)}{name}", data) for i, (name, data) in enumerate(labelled([PNG] * 6, "png"))]
    path = write_tar(folder / "a.tar", files)
    data = bytearray(path.read_bytes())
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(headers))
        match int(rng.integers(6)):
            case 0:  # base 256, also negative
                data[at + 124 : at + 136] = bytes([int(rng.choice([0x80, 0xFF]))]) + rng.bytes(11)
            case 1:
                data[at + 124 : at + 136] = b"%011o\0" % int(rng.choice([0, 1, 511, 1 << 30, (1 << 33) - 1]))
            case 2:
                data[at + 156] = int(rng.choice(list(b"01234567LKxgSVMDNA\0\xff")))
            case 3:  # of a PAX header, whose records follow
                data[at + 512 : at + 544] = (
                    b"25 size=" + b"%-16d" % int(rng.integers(-(1 << 40), 1 << 40)) + b"\n" + bytes(7)
                )
            case 4:
                data[at + int(rng.integers(345, 512))] = int(rng.integers(256))
            case _:
                data[at : at + 100] = rng.bytes(100)
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    index(path)
    yield "indexed"


def chains(kind, length):
    """Headers that each announce another one."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 10
    return (info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * length + bytes(1024)


def try_traps(_kind, number, folder):
    path = folder / "a.tar"
    sample = [("x.png", IMAGES["png"][0])]
    traps = {
        "chain of long names": lambda: path.write_bytes(chains(b"L", 20_000)),
        "chain of long links": lambda: path.write_bytes(chains(b"K", 20_000)),
        "chain of PAX headers": lambda: path.write_bytes(chains(b"x", 20_000)),
        "zeros without end": lambda: (write_tar(path, [*sample, ("x.cls", b"0")]), os.truncate(path, 1 << 33)),
        "nothing but zeros": lambda: (path.write_bytes(bytes(1)), os.truncate(path, 1 << 33)),
        "label of a gigabyte": lambda: write_tar(path, [*sample, ("x.cls", bytes(1 << 30))]),
        "deep JSON": lambda: write_tar(path, [*sample, ("x.json", b"[" * 500_000)]),
        "deep JSON object": lambda: write_tar(path, [*sample, ("x.json", b'{"label":' * 100_000)]),
        "long number": lambda: write_tar(path, [*sample, ("x.cls", b"9" * 100_000)]),
        "label 2**40": lambda: write_tar(path, [*sample, ("x.cls", b"%d" % 2**40)]),
        "label 10**18": lambda: write_tar(path, [*sample, ("x.json", b'{"label": %d}' % 10**18)]),
        "label -1": lambda: write_tar(path, [*sample, ("x.cls", b"-1")]),
        "label of controls": lambda: write_tar(path, [*sample, ("x.cls", b"\x1b]0;title\x07")]),
        "pipe": lambda: os.mkfifo(path),
        "folder": lambda: path.mkdir(),
        "endless device": lambda: path.symlink_to("/dev/zero"),
        "link to nowhere": lambda: path.symlink_to(folder / "nothing"),
        "link to itself": lambda: path.symlink_to(path),
        "compressed": lambda: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)),
        "tar in a tar": lambda: write_tar(path, [("x.tar", write_tar(folder / "b", sample).read_bytes())]),
        "no image but 100 000 members": lambda: write_tar(path, [(f"{i}.txt", b"0") for i in range(100_000)]),
    }
    if number >= len(traps):
        return
    name, make = list(traps.items())[number]
    make()
    index(path)
    raise AssertionError(f"{name} was taken")
    yield


def try_catalogs(_kind, number, folder):
    """Sealed catalogs whose values or metadata are false."""
    rng = np.random.default_rng([number, 9])
    lying_catalog(folder, IMAGES["png"][:1] * 8, "png")
    file = folder / "catalog.parquet"
    table = pq.read_table(file)
    meta = json.loads(table.schema.metadata[METADATA])
    extremes = (-1, 0, 1, 2**31 - 1, -(2**31), 2**40, 10**18, 2**63 - 1, -(2**63))
    column = str(rng.choice(["shard", "offset", "size", "label", "height", "width", "key", "meta"]))
    if column == "meta":
        paths = ["/etc/passwd", "../../../etc/passwd", "a\nb.tar", "\x1b[2J", "https://other/a.tar", "a.tar/", ""]
        path = str(rng.choice(paths))
        changes = (
            {"shards": [{**meta["shards"][0], "path": path}]},
            {"shards": [{**meta["shards"][0], "size": int(rng.choice(extremes))}]},
            {"shards": [{**meta["shards"][0], "size": float("inf")}]},
            {"shards": [{**meta["shards"][0], "size": 10**30}]},
            {"classes": [["a"], {}]}, {"classes": ["\x1b[2J"]}, {"classes": []}, {"channels": 10**9}, {"channels": -1},
            {"shards": []}, {"shards": {}}, {"format": 10**9}, {"provenance": []},
        )  # fmt: skip
        meta |= changes[int(rng.integers(len(changes)))]
    else:
        values = table[column].to_pylist()
        at = int(rng.integers(len(values)))
        if column == "key":
            values[at] = str(rng.choice(["", "a\x1b[2J", "x" * 5000, "\u202e", "<b>"]))
        else:
            width = table.schema.field(column).type.bit_width
            values[at] = int(rng.choice([x for x in extremes if -(2 ** (width - 1)) <= x < 2 ** (width - 1)]))
        field = table.schema.field(column)
        table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    if column != "meta":
        names = ("shard", "offset", "size", "checksum", "label", "height", "width")
        columns = {name: table[name].to_numpy() for name in names}
        keys = table["key"].cast(pa.large_string()).combine_chunks()
        codes = np.full(len(table), 1, np.int8)
        meta["fingerprint"] = fingerprint([Shard(**shard) for shard in meta["shards"]], columns, keys, codes)
    text = json.dumps(meta).encode()
    mark = seal(text, table.column_names, None)
    pq.write_table(table.replace_schema_metadata({METADATA: text, SEAL: mark}), file)
    catalog = Catalog.open(folder)
    yield f"opened, {read_all(catalog, 'random')} of {len(catalog)} replaced"


KINDS = {
    "jpeg": try_images, "png": try_images, "webp": try_images, "bombs": try_bombs, "names": try_names, "tars": try_tars,
    "traps": try_traps, "catalogs": try_catalogs,
}  # fmt: skip
COUNTS = {"jpeg": COUNT // 40 + 1, "png": COUNT // 40 + 1, "webp": COUNT // 40 + 1, "bombs": 60, "traps": 21}


def clear(error):
    """A refusal is one line with words, and nothing in it acts on a terminal once it is printed."""
    assert isinstance(error, (ValueError, FileNotFoundError, RuntimeError)), repr(error)
    assert type(error) is not RuntimeError, repr(error)
    text = str(error)
    assert text.strip() and len(text) < 3000, f"{len(text)} characters: {text[:300]!r}"
    assert printable(text) == text and "\n" not in text, ascii(text[:300])


def work(kind, start, stop):
    """The inputs of a kind, one after the other; says what it begins, and how each ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(start, stop):
        print(json.dumps(["begin", number]), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                for end in KINDS[kind](kind, number, Path(folder)):
                    print(json.dumps(["end", end]), flush=True)
            except AssertionError as error:
                print(json.dumps(["wrong", f"{number}: {error}"]), flush=True)
            except Exception as error:  # whatever comes is what is looked for
                try:
                    clear(error)
                    print(json.dumps(["end", f"refused, {type(error).__name__}"]), flush=True)
                except AssertionError as unclear:
                    print(json.dumps(["wrong", f"{number}: {unclear}"]), flush=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_ends_clearly(kind):
    ended, wrong = Counter(), []
    start, stop = 0, COUNTS.get(kind, COUNT)
    while start < stop:
        command = [sys.executable, __file__, kind, str(start), str(stop)]
        with tempfile.TemporaryFile() as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
            log.seek(0)
            lines = [json.loads(line) for line in log.read().decode().splitlines() if line.startswith('["')]
        ended.update(text for what, text in lines if what == "end")
        wrong += [text for what, text in lines if what == "wrong"]
        if done.returncode == 0:
            break
        begun = [number for what, number in lines if what == "begin"]
        last = begun[-1] if begun else start
        wrong.append(f"{last}: the process ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
        start = last + 1
    told = ", ".join(f"{k} {n}" for k, n in ended.most_common())
    print(f"{kind}: {sum(ended.values()) + len(wrong)} inputs, ended as {told}")
    assert not wrong, "\n".join(wrong[:10])


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
