"""Recognise a file's kind by its first bytes."""

import re

_KINDS: tuple[tuple[bytes, int, str], ...] = (  # bytes, where they stand, what they mean
    (b"GIF8", 0, "a GIF image"),
    (b"BM", 0, "a BMP image"),
    (b"II*\0", 0, "a TIFF image"),
    (b"MM\0*", 0, "a TIFF image"),
    (b"II+\0", 0, "a TIFF image"),
    (b"MM\0+", 0, "a TIFF image"),
    (b"\0\0\0\x0cjP  ", 0, "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", 0, "a JPEG 2000 image"),
    (b"\xff\x0a", 0, "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL image"),
    (b"ftypavif", 4, "an AVIF image"),
    (b"ftypavis", 4, "an AVIF image"),
    (b"ftyphe", 4, "a HEIC image"),
    (b"ftypmif1", 4, "a HEIC image"),
    (b"ftypmsf1", 4, "a HEIC image"),
    (b"ftyp", 4, "a video"),
    (b"\x1aE\xdf\xa3", 0, "a video"),
    (b"AVI ", 8, "a video"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"\0\0\1\0", 0, "an icon"),
    (b"\x8aMNG", 0, "an MNG animation"),
    (b"DDS ", 0, "a DDS texture"),
    (b"\x76\x2f\x31\x01", 0, "an OpenEXR image"),
    (b"%PDF", 0, "a PDF document"),
    (b"%!PS", 0, "a PostScript document"),
    (b"PK\3\4", 0, "a zip archive"),
    (b"\x1f\x8b", 0, "a gzip file"),
    (b"BZh", 0, "a bzip2 file"),
    (b"\xfd7zXZ", 0, "an xz file"),
    (b"7z\xbc\xaf", 0, "a 7z archive"),
    (b"Rar!", 0, "a RAR archive"),
    (b"ustar", 257, "a tar archive"),
    (b"\x93NUMPY", 0, "a NumPy array"),
    (b"\x89HDF", 0, "an HDF5 file"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself"),
    (b"\xff\xd8", 0, "a JPEG with a damaged header"),
    (b"\x89PNG", 0, "a PNG with a damaged header"),
    (b"WEBP", 8, "a WebP with a damaged header"),
)
_LOOKED = 512  # first bytes that are looked at


def describe_bytes(data: bytes | memoryview, /) -> str:
    """Say what a file is that is no readable image: "it is a GIF image"."""
    return f"it is {_kind(bytes(data[:_LOOKED]))}"


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    if found := next((kind for mark, at, kind in _KINDS if head[at : at + len(mark)] == mark), None):
        return found
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    xml = start.startswith(b"<?xml")
    tests = {
        "filled with zeros": not head.strip(b"\0"),
        "a plain (ASCII) Netpbm image, of which only the binary kinds P5 and P6 are read": re.match(
            rb"P[1-3]\s+(#|\d+\s+\d+\s)", head
        ),
        "an HTML page": start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")),
        "an SVG drawing": start.startswith(b"<svg") or (xml and b"<svg" in start),
        "an XML document": xml,
        "a text file": all(byte >= 32 or byte in b"\t\n\r\f" for byte in head),
    }
    return next((kind for kind, holds in tests.items() if holds), "of no kind that is known here")
