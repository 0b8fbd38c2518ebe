"""What `verify` passes the loader gives, with Pillow's pixels turned by the first EXIF block; all else is refused.

The files are made here, each odd in one way: headers, metadata, structure, what is cut off or put in.
"""

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageCms

from drawstream import Catalog, Loader, Reading, Sequential, Transform, index, verify
from drawstream.pipeline.decoding import decode, encode, probe
from shared.samples import CASES, write_tar

H, W = 48, 96
X, Y = np.meshgrid(np.arange(W), np.arange(H))
COLOUR = np.stack([X * 255 // (W - 1), Y * 255 // (H - 1), (X + Y) * 255 // (W + H - 2)], axis=2).astype(np.uint8)
GRAY = np.ascontiguousarray(COLOUR[..., 2])
ALPHA = np.dstack([COLOUR, GRAY])
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description xmlns:tiff='t' tiff:Orientation='%d'/></x:xmpmeta>"


def saved(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind, *images, **options):
    first, *others = map(Image.fromarray, images)
    return saved(first, kind, save_all=True, append_images=others, **options)


def tiff(value, order="<", *, kind=3, count=1, before=(), first=8):
    """A TIFF header with the orientation tag, and others before it."""
    entries = [*before, (kind, count, value)]
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, first) + bytes(first - 8)
    out += struct.pack(order + "H", len(entries))
    for each_kind, each_count, each in entries:
        out += struct.pack(order + "HHI", 0x0112, each_kind, each_count)
        short = struct.pack(order + "HH", each, 0) if each_kind in (3, 8) and isinstance(each, int) else b""
        out += each if isinstance(each, bytes) else short or struct.pack(order + "I", each)
    return out + bytes(4)


def exif(*arguments, **options):
    return b"Exif\0\0" + tiff(*arguments, **options)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def app1(content):
    return segment(0xE1, content)


def put(data, at, *parts):
    return data[:at] + b"".join(parts) + data[at:]


def patched(data, at, part):
    return data[:at] + part + data[at + len(part) :]


def place(jpeg, marker):
    """First byte and length of the first such segment."""
    at = 2
    while jpeg[at + 1] != marker:
        at += 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    return at, 2 + struct.unpack_from(">H", jpeg, at + 2)[0]


def jpegs():
    plain = saved(COLOUR, "jpeg", quality=90)
    bare = plain[:2] + plain[20:]  # without JFIF
    found = {f"{order}{value}": put(plain, 2, app1(exif(value, order))) for order in "<>" for value in range(11)}
    blocks = {
        "two 36": [exif(3), exif(6)],
        "two 63": [exif(6), exif(3)],
        "two 61": [exif(6), exif(1)],
        "two 18": [exif(1), exif(8)],
        "two, first broken": [b"Exif\0\0garbage!", exif(6)],
        "two, first empty": [b"Exif\0\0", exif(6)],
        "xmp": [b"http://ns.adobe.com/xap/1.0/\0" + XMP % 6],
        "xmp 3, exif 6": [b"http://ns.adobe.com/xap/1.0/\0" + XMP % 3, exif(6)],
        "exif 1, xmp 6": [exif(1), b"http://ns.adobe.com/xap/1.0/\0" + XMP % 6],
        "long": [exif(6, kind=4)],
        "long, big endian": [exif(6, ">", kind=4)],
        "byte": [exif(b"\6\0\0\0", kind=1)],
        "text": [exif(b"6\0\0\0", kind=2, count=2)],
        "of count 2": [exif(struct.pack("<HH", 6, 1), count=2)],
        "of count 0": [exif(6, count=0)],
        "two tags": [exif(6, before=[(3, 1, 3)])],
        "directory elsewhere": [exif(6, first=20)],
        "directory beyond": [b"Exif\0\0II*\0\xff\xff\0\0" + bytes(20)],
        "other magic": [b"Exif\0\0II+\0" + tiff(6)[4:]],
        "mixed order": [b"Exif\0\0MM" + tiff(6)[2:]],
        "other mark": [b"Exif\0\1" + tiff(6)],
        "padded": [exif(6) + bytes(100)],
        "cut entry": [exif(6)[:-8]],
        "no next directory": [exif(6)[:-4]],
        "many entries claimed": [b"Exif\0\0II*\0\x08\0\0\0\x50\0" + tiff(6)[10:]],
        "empty segment": [b""],
        "MPF": [],
    }
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    thumbnail = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HI", 0, 14) + entry  # turned, the image is not
    blocks["turned thumbnail"] = [thumbnail]
    found |= {name: put(plain, 2, *map(app1, contents)) for name, contents in blocks.items()}
    (frame, length), (scan, scan_length) = place(plain, 0xC0), place(plain, 0xDA)
    pixels = scan + scan_length
    found |= {
        "plain": plain,
        "bare": bare,
        "exif behind JFIF": put(plain, 20, app1(exif(6))),
        "exif behind the frame": put(plain, frame + length, app1(exif(6))),
        "exif before the scan": put(plain, scan, app1(exif(6))),
        "fill bytes": put(plain, 2, b"\xff\xff\xff"),
        "fill bytes before the frame": put(plain, frame, b"\xff\xff"),
        "fill bytes before exif": put(plain, 2, b"\xff\xff", app1(exif(6))),
        "fill bytes before the end": put(plain, len(plain) - 2, b"\xff\xff"),
        "ff00": put(plain, 2, b"\xff\0"),
        "ff00 before the frame": put(plain, frame, b"\xff\0"),
        "junk": put(plain, 2, b"x"),
        "junk before the frame": put(plain, frame, b"\0\0\0"),
        "junk before the scan": put(plain, scan, b"\0\0"),
        "junk in front": b"\n" + plain,
        "segment of length 0": put(plain, 2, b"\xff\xe1\0\0"),
        "segment of length 1": put(plain, 2, b"\xff\xe1\0\1"),
        "long comment": put(plain, 2, segment(0xFE, b"a" * 60_000)),
        "restart in the header": put(plain, 2, b"\xff\xd0"),
        "two starts": put(plain, 2, b"\xff\xd8"),
        "early end": put(plain, 2, b"\xff\xd9"),
        "no end": plain[:-2],
        "cut": plain[: len(plain) * 2 // 3],
        "cut by 10": plain[:-10],
        "cut header": plain[:100],
        "trailing": plain + b"garbage" * 9,
        "another image behind": plain + saved(GRAY, "jpeg"),
        "progressive": saved(COLOUR, "jpeg", progressive=True, exif=exif(6)),
        "progressive, cut": saved(COLOUR, "jpeg", progressive=True)[:-400],
        "gray, turned": saved(GRAY, "jpeg", exif=exif(6)),
        "4:4:4": saved(COLOUR, "jpeg", subsampling=0),
        "4:2:2": saved(COLOUR, "jpeg", subsampling=1),
        "restarts": saved(COLOUR, "jpeg", restart_marker_blocks=2),
        "wrong restart": saved(COLOUR, "jpeg", restart_marker_blocks=2).replace(b"\xff\xd1", b"\xff\xd5", 1),
        "missing restart": saved(COLOUR, "jpeg", restart_marker_blocks=2).replace(b"\xff\xd1", b"", 1),
        "RGB": saved(COLOUR, "jpeg", keep_rgb=True),
        "MPO": frames("mpo", COLOUR, COLOUR[::-1]),
        "12 bits": patched(plain, frame + 4, b"\x0c"),
        "arithmetic": patched(plain, frame + 1, b"\xc9"),
        "lossless": patched(plain, frame + 1, b"\xc3"),
        "extended": patched(plain, frame + 1, b"\xc1"),
        "no height": patched(plain, frame + 5, b"\0\0"),
        "height in DNL": patched(plain, frame + 5, b"\0\0")[:-2] + b"\xff\xdc\0\4\0\x30\xff\xd9",
        "taller": patched(plain, frame + 5, b"\0\x60"),
        "wider": patched(plain, frame + 7, b"\0\x80"),
        "shorter": patched(plain, frame + 5, b"\0\x20"),
        "two frames": put(plain, frame, plain[frame : frame + length]),
        "sampling 4": patched(plain, frame + 11, b"\x44"),
        "sampling 0": patched(plain, frame + 11, b"\0"),
        "sampling 3": patched(plain, frame + 11, b"\x31"),
        "no tables": plain[: place(plain, 0xDB)[0]] + plain[sum(place(plain, 0xDB)) :],
        "marker in the scan": patched(plain, pixels + 40, b"\xff\xe0"),
        "empty scan": plain[:pixels] + b"\xff\xd9",
        "1 × 1": saved(COLOUR[:1, :1].copy(), "jpeg", exif=exif(6)),
        "65 500 wide": saved(np.zeros((1, 65_500), np.uint8), "jpeg"),
    }
    cmyk = saved(Image.fromarray(COLOUR).convert("CMYK"), "jpeg")
    adobe = cmyk.index(b"Adobe")
    found |= {f"CMYK, transform {i}": patched(cmyk, adobe + 11, bytes([i])) for i in range(4)}
    found["CMYK without a mark"] = cmyk[: adobe - 4] + cmyk[adobe + 12 :]
    found["YCCK, turned"] = put(patched(cmyk, adobe + 11, b"\2"), 2, app1(exif(6)))
    for i in (0, 1, 2):
        found[f"Adobe {i}"] = put(bare, 2, segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([i])))
    found["cut Adobe mark"] = put(bare, 2, segment(0xEE, b"Adobe"))
    return found


def chunk(name, content, crc=None):
    crc = zlib.crc32(name + content) if crc is None else crc
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(pixels=None, *chunks, depth=8, kind=2, size=(W, H), interlace=0, behind=(), first=()):
    """A PNG of rows of bytes, with chunks in front of them and behind."""
    rows = COLOUR if pixels is None else pixels
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    head = (b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, interlace))
    every = [*first, head, *chunks, (b"IDAT", body), *behind, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(each if isinstance(each, bytes) else chunk(*each) for each in every)


def adam7(image):
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [image[y::dy, x::dx] for y, x, dy, dx in passes]
    return [row.tobytes() for part in parts if part.size for row in part]


def packed(depth):
    bits = np.unpackbits((GRAY >> (8 - depth))[..., None], axis=2)[..., 8 - depth :]
    return np.packbits(bits.reshape(H, -1), axis=1)


def pngs():
    found = {}
    for value in range(10):
        found[f"eXIf {value}"] = png(None, (b"eXIf", tiff(value)))
        found[f"eXIf {value}, big endian"] = png(None, (b"eXIf", tiff(value, ">")))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = b"\nexif\n      %d\n" % len(exif(6)) + exif(6).hex().encode() + b"\n"
    metadata = {
        "plain": [],
        "prefixed eXIf": [(b"eXIf", exif(6))],
        "two eXIf 36": [(b"eXIf", tiff(3)), (b"eXIf", tiff(6))],
        "two eXIf 63": [(b"eXIf", tiff(6)), (b"eXIf", tiff(3))],
        "empty eXIf": [(b"eXIf", b"")],
        "broken eXIf": [(b"eXIf", b"MM garbage")],
        "eXIf, wrong CRC": [chunk(b"eXIf", tiff(6), 1)],
        "xmp": [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)],
        "raw profile": [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))],
        "raw profile, plain text": [(b"tEXt", b"Raw profile type exif\0" + profile)],
        "broken raw profile": [(b"tEXt", b"Raw profile type exif\0zzz")],
        "raw profile 6, eXIf 1": [(b"tEXt", b"Raw profile type exif\0" + profile), (b"eXIf", tiff(1))],
        "text, wrong CRC": [chunk(b"tEXt", b"a\0b", 3)],
        "unknown, wrong CRC": [chunk(b"vpAg", b"abc", 3)],
        "text that swells": [(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)))],
        "broken text": [(b"zTXt", b"a\0\0nonsense")],
        "unknown critical chunk": [(b"ABCD", b"x")],
        "unknown chunk": [(b"abCd", b"x")],
        "gamma": [(b"gAMA", struct.pack(">I", 100_000))],
        "gamma 0": [(b"gAMA", bytes(4))],
        "profile": [(b"iCCP", b"x\0\0" + zlib.compress(srgb))],
        "broken profile": [(b"iCCP", b"x\0\0zz")],
        "cut size": [(b"pHYs", bytes(3))],
        "bad time": [(b"tIME", bytes(7))],
        "transparent colour": [(b"tRNS", bytes(6))],
        "cut transparency": [(b"tRNS", b"\0")],
        "palette of colour": [(b"PLTE", bytes(768))],
        "empty data first": [(b"IDAT", b"")],
        "animation without frames": [(b"acTL", struct.pack(">II", 2, 0))],
        "animation of none": [(b"acTL", struct.pack(">II", 0, 0))],
        "cut animation": [(b"acTL", b"\0\0")],
        "frame that is a part": [
            (b"acTL", struct.pack(">II", 1, 0)),
            (b"fcTL", struct.pack(">IIIIIHHBB", 0, 40, 30, 5, 5, 1, 10, 0, 0)),
        ],
    }  # fmt: skip
    found |= {name: png(None, *chunks) for name, chunks in metadata.items()}
    plain = found["plain"]
    palette = bytes(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8))
    found |= {
        "eXIf behind": png(behind=[(b"eXIf", tiff(6))]),
        "eXIf before and behind": png(None, (b"eXIf", tiff(3)), behind=[(b"eXIf", tiff(6))]),
        "eXIf behind the end": plain + chunk(b"eXIf", tiff(6)),
        "eXIf first": png(first=[(b"eXIf", tiff(6))]),
        "Apple's": png(first=[(b"CgBI", bytes(4))]),
        "no end": plain[:-12],
        "cut end": plain[:-4],
        "end, wrong CRC": plain[:-4] + bytes(4),
        "cut": plain[: len(plain) // 2],
        "cut data": plain[:-30],
        "trailing": plain + b"garbage" * 9,
        "data, wrong CRC": patched(plain, len(plain) - 16, bytes(4)),
        "few rows": png(COLOUR[:20]),
        "many rows": png(np.vstack([COLOUR, COLOUR])),
        "bad filter": plain[:41] + zlib.compress(b"".join(b"\x09" + bytes(row) for row in COLOUR)),
        "text behind, wrong CRC": png(behind=[chunk(b"tEXt", b"a\0b", 3)]),
        "no pixels": png(size=(0, H)),
        "colour type 1": png(GRAY, kind=1),
        "3 bits": png(GRAY, kind=0, depth=3),
        "interlace 2": png(interlace=2),
        "interlaced": png(adam7(COLOUR), (b"eXIf", tiff(6)), interlace=1),
        "gray": png(GRAY, (b"eXIf", tiff(6)), kind=0),
        "gray and alpha": saved(Image.fromarray(np.dstack([GRAY, GRAY])), "png"),
        "alpha": png(ALPHA, (b"eXIf", tiff(6)), kind=6),
        "palette": png(GRAY, (b"PLTE", palette), (b"eXIf", tiff(6)), kind=3),
        "palette, transparent": png(GRAY, (b"PLTE", palette), (b"tRNS", bytes(range(256))), kind=3),
        "short palette": png(GRAY, (b"PLTE", palette[:300]), kind=3),
        "odd palette": png(GRAY, (b"PLTE", palette[:301]), kind=3),
        "two palettes": png(GRAY, (b"PLTE", palette), (b"PLTE", palette), kind=3),
        "palette behind": png(GRAY, kind=3, behind=[(b"PLTE", palette)]),
        "interlaced palette": png(adam7(GRAY), (b"PLTE", palette), kind=3, interlace=1),
        "16 bits": png([row.tobytes() for row in COLOUR.astype(">u2") * 255], (b"eXIf", tiff(6)), depth=16),
        "16 bits, alpha": png([row.tobytes() for row in ALPHA.astype(">u2") * 255], depth=16, kind=6),
        "gray, 16 bits": png([row.tobytes() for row in GRAY.astype(">u2") * 255], depth=16, kind=0),
        "1 × 1": saved(COLOUR[:1, :1].copy(), "png"),
        "wide": saved(np.zeros((1, 300_000, 3), np.uint8), "png"),
        "animation": frames("png", COLOUR, COLOUR[::-1], 255 - COLOUR),
        "animation with another picture": frames("png", COLOUR, COLOUR[::-1], 255 - COLOUR, default_image=True),
        "animation with alpha": frames("png", ALPHA, ALPHA[::-1]),
        "animation said behind": png(behind=[(b"acTL", struct.pack(">II", 2, 0))]),
    }
    for depth in (1, 2, 4):
        found[f"gray, {depth} bits"] = png(packed(depth), depth=depth, kind=0)
        found[f"palette, {depth} bits"] = png(packed(depth), (b"PLTE", palette[: 3 << depth]), depth=depth, kind=3)
        found[f"palette, {depth} bits, short"] = png(packed(depth), (b"PLTE", palette[:3]), depth=depth, kind=3)
        found[f"no palette, {depth} bits"] = png(packed(depth), depth=depth, kind=3)
    return found


def riff(*chunks, more=0):
    body = b"".join(k + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body) + more) + b"WEBP" + body


def header(flags, width=W, height=H):
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def webps():
    lossless, lossy = saved(COLOUR, "webp", lossless=True), saved(COLOUR, "webp", quality=90)
    whole, fine = (b"VP8L", lossless[20:].rstrip(b"\0")), (b"VP8 ", lossy[20:])
    animated = frames("webp", COLOUR, COLOUR[::-1], 255 - COLOUR, lossless=True)
    found = {}
    for value in (1, 3, 6, 8, 9):
        found[f"EXIF {value}"] = riff(header(8), whole, (b"EXIF", tiff(value)))
        found[f"prefixed EXIF {value}"] = riff(header(8), whole, (b"EXIF", exif(value)))
        found[f"lossy, EXIF {value}, big endian"] = riff(header(8), fine, (b"EXIF", tiff(value, ">")))
    return found | {
        "lossless": lossless,
        "lossy": lossy,
        "EXIF without its flag": riff(header(0), whole, (b"EXIF", tiff(6))),
        "flag without EXIF": riff(header(8), whole),
        "EXIF in front": riff(header(8), (b"EXIF", tiff(6)), whole),
        "two EXIF": riff(header(8), whole, (b"EXIF", tiff(3)), (b"EXIF", tiff(6))),
        "EXIF behind an odd chunk": riff(header(8), whole, (b"ABCD", b"xyz"), (b"EXIF", tiff(6))),
        "EXIF of odd length": riff(header(8), whole, (b"EXIF", tiff(6) + b"\0")),
        "empty EXIF": riff(header(8), whole, (b"EXIF", b"")),
        "broken EXIF": riff(header(8), whole, (b"EXIF", b"garbage")),
        "EXIF without padding": riff(header(8), whole, (b"EXIF", tiff(6) + b"\0"))[:-1],
        "xmp": riff(header(4), whole, (b"XMP ", XMP % 6)),
        "profile": riff(header(40), (b"ICCP", b"icc"), whole, (b"EXIF", tiff(6))),
        "other canvas": riff(header(0, 200, 100), whole),
        "no image": riff(header(0)),
        "two headers": riff(header(0), header(0, 50, 50), whole),
        "alpha": saved(Image.fromarray(ALPHA), "webp", exif=exif(6)),
        "alpha, lossless": saved(Image.fromarray(ALPHA), "webp", lossless=True),
        "flag without alpha": riff(header(16), fine),
        "animation": animated,
        "lossy animation": frames("webp", COLOUR, COLOUR[::-1]),
        "animation without its flag": patched(animated, 20, bytes([animated[20] & ~2])),
        "flag without animation": riff(header(2), whole),
        "cut": lossless[:-10],
        "lossy, cut": lossy[:-20],
        "cut header": lossless[:25],
        "trailing": lossless + b"garbage",
        "claims more": riff(whole, more=500),
        "altered": patched(lossless, 60, b"\xff\0\xff"),
        "1 × 1": saved(COLOUR[:1, :1].copy(), "webp"),
        "tall": saved(np.ascontiguousarray(np.zeros((3000, 3, 3), np.uint8)), "webp", lossless=True, exif=exif(6)),
    }


@cache
def images():
    kinds = {"jpeg": jpegs(), "png": pngs(), "webp": webps()}
    found = {f"{kind} {name}": data for kind, group in kinds.items() for name, data in group.items()}
    return found | {path.name: path.read_bytes() for path in sorted((CASES / "images").iterdir())}


def first_exif(data):
    """The orientation of the rule, found in another way than the product does."""
    kind = Image.open(io.BytesIO(data)).format
    if kind == "WEBP":
        block = Image.open(io.BytesIO(data)).info.get("exif", b"")
    elif kind == "PNG":
        at = data.find(b"eXIf")
        inside = 0 <= at < data.find(b"IEND")
        block = data[at + 4 : at + 4 + struct.unpack(">I", data[at - 4 : at])[0]] if inside else b""
    else:
        at = data.find(b"Exif\0\0", 0, data.find(b"\xff\xda"))
        block = data[at : at + struct.unpack(">H", data[at - 2 : at])[0] - 2] if at > 0 else b""
    tags = Image.Exif()
    try:
        tags.load(block)
        value = tags.get(0x0112, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


TRANSPOSED = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # Pillow's numbers of the same turns


def by_pillow(data, rule):
    image = Image.open(io.BytesIO(data))
    image.load() if image.format == "WEBP" else None
    pixels = image.convert("L" if image.mode in ("1", "L") else "RGB")
    turned = first_exif(data) if rule == "exif" else 1
    return np.asarray(pixels if turned == 1 else pixels.transpose(Image.Transpose(TRANSPOSED[turned])))


def refusal(act, *arguments, **options):
    try:
        act(*arguments, **options)
    except ValueError as error:
        assert "\n" not in str(error) and "0x" not in str(error)
        return str(error)
    return ""


def indexed(folder, names, rule):
    """A catalog of some files, one after the other in a shard."""
    folder.mkdir()
    files = []
    for i, name in enumerate(names):
        kind = probe(images()[name], rule=rule).encoding
        files += [(f"{i:04d}.cls", "0"), (f"{i:04d}.{'jpg' if kind == 'jpeg' else kind}", images()[name])]
    index(write_tar(folder / "a.tar", *files), orientation=rule)
    return Catalog.open(folder)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of the same files
@pytest.mark.parametrize("rule", ["exif", "stored"])
def test_what_verify_passes_the_loader_gives(tmp_path, rule, capfd):
    groups = {}
    for name, data in images().items():
        if not refusal(probe, data, rule=rule):
            info = probe(data, rule=rule)
            groups.setdefault((info.height, info.width, info.channels), []).append(name)
        else:
            assert refusal(encode, data, "keep", quality=90, rule=rule) and refusal(decode, data, rule=rule), name
    assert sum(map(len, groups.values())) > 200
    for number, ((height, width, channels), names) in enumerate(groups.items()):
        catalog = indexed(tmp_path / str(number), names, rule)
        findings = {finding.row: finding.message for finding in verify(catalog)}
        refused = [bool(refusal(encode, images()[name], "keep", quality=90, rule=rule)) for name in names]
        assert refused == [row in findings for row in range(len(names))], "pack names what verify names"
        good = [row for row in range(len(names)) if row not in findings]
        if not good:
            continue
        transform = Transform((height, width), (0.0,) * channels, (1.0,) * channels, crop="none")
        options = {"reading": Reading(on_bad="substitute", max_bad=len(names)), "batch_size": len(good)}
        loader = Loader(catalog, Sequential(0, len(names)), transform=transform, **options)
        given = np.concatenate([batch.images.numpy() for batch in loader]).transpose(0, 2, 3, 1)
        assert {bad.sample_id for bad in loader.bad_samples} == set(findings)
        loader.close()
        for row in good:
            data = images()[names[row]]
            keep = np.rint(given[row]).astype(np.uint8)
            keep = keep if channels == 3 else keep[..., 0]
            raw = decode(encode(data, "raw", quality=90, rule=rule)[0])
            assert (keep == raw).all(), names[row]
            pillow = by_pillow(data, rule).astype(int)
            assert keep.shape == pillow.shape, names[row]
            assert np.abs(keep - pillow).max() <= (1 if "16 bits" in names[row] else 0), names[row]
    printed = capfd.readouterr()
    assert printed.err == printed.out == ""  # nothing of DALI, libpng, libjpeg or OpenCV


CASE = {  # name → (height, width), None where it is refused
    "plain.jpg": (48, 64), "plain.png": (48, 64), "long_app1_zero.jpg": (48, 64), "short_app14.jpg": (48, 64),
    "webp_noprefix_6.webp": (96, 48), "webp_prefix_6.webp": (96, 48), "webp_xmp_6.webp": (48, 96),
    "jpeg_two_3.jpg": (48, 96), "jpeg_two_6.jpg": (96, 48), "jpeg_two_rev_6.jpg": (48, 96), "jpeg_xmp_6.jpg": (48, 96),
    "png_xmp_6.png": (48, 96), "png_rawprofile_3.png": (48, 96), "png_rawprofile_6.png": (48, 96),
    "png_exif_after_6.png": (96, 48), "apng_default_image.png": (48, 64), "ff00_in_header.jpg": None,
    "no_iend.png": None,
    "junk_before_marker.jpg": None, "bad_crc_text.png": None,
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((CASES / "images").iterdir()), ids=lambda path: path.name)
def test_cases(path):
    data, size = path.read_bytes(), CASE[path.name]
    if size is None:
        assert refusal(encode, data, "keep", quality=90) and refusal(encode, data, "raw", quality=90)
    else:
        info = encode(data, "keep", quality=90)[1]
        assert (info.height, info.width) == size == decode(encode(data, "raw", quality=90)[0]).shape[:2]


@pytest.mark.parametrize(("rule", "shape"), [("exif", (96, 48, 3)), ("stored", (48, 96, 3))])
def test_a_gallery_shows_images_as_they_are_trained_on(tmp_path, rule, shape):
    from drawstream.tools.report.gallery import image_of

    catalog = indexed(tmp_path / "data", ["webp_prefix_6.webp"], rule)
    data = np.frombuffer(images()["webp_prefix_6.webp"], np.uint8)
    assert image_of(catalog, 0, data).shape == shape
