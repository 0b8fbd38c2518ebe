"""JSON and TOML of strangers: each kind of damage is one line with file and remedy."""

import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from drawstream.samplers.files.documents import DEPTH, parse_json, read_json, read_regular, read_toml
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (nested(DEPTH + 1), f"lists and objects may lie {DEPTH} levels deep"),
        (nested(1500), f"lists and objects may lie {DEPTH} levels deep"),
        ('{"a":' * 300_000, f"lists and objects may lie {DEPTH} levels deep"),
        ("[1e400]", "numbers must be finite, but one is 1e400"),
        ("[-Infinity]", "numbers must be finite, but one is -Infinity"),
        ("[NaN]", "numbers must be finite, but one is NaN"),
        (f"[{'1' * 5000}]", "an integer may have 20 digits, but one has 5000"),
        (f"[-{'1' * 21}]", "an integer may have 20 digits, but one has 21"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' comes twice in one object"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b"\xff\xfe\xff", "it is no UTF-8 text"),
        (b'{"a": "\xe9"}', "it is no UTF-8 text (byte 7)"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        read_json(path, remedy="write it again")
    assert str(caught.value).startswith(f"{path}: not readable as JSON: ")
    assert str(caught.value).endswith(": write it again") and "\n" not in str(caught.value)


def test_sound_documents_come_as_they_are():
    assert parse_json(nested(DEPTH).encode()) == eval(nested(DEPTH))
    assert parse_json(b'{"a": [1, -2.5, "]]]", 18446744073709551615], "b": {}}') == {
        "a": [1, -2.5, "]]]", 18446744073709551615],
        "b": {},
    }
    assert parse_json(('"' + "[" * 1000 + '"').encode()) == "[" * 1000  # brackets in a text are no levels
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):  # as editors of Windows write
        assert parse_json('{"ä": 1}'.encode(encoding)) == {"ä": 1}
    found = parse_json(b"[NaN, Infinity, 1e400]", finite=False)
    assert found[0] != found[0] and found[1:] == [float("inf"), float("inf")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a = {nested(1500)}", "levels deep"),
        (f"a = {nested(DEPTH + 1)}", "levels deep"),
        (".".join(["a"] * 1500) + " = 1", "levels deep"),
        (f"a = {'1' * 5000}", "an integer may have 20 digits"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        (b"a = '\xff'", "it is no UTF-8 text"),
    ],
)
def test_toml_likewise(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        read_toml(path, remedy="mend the file")
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(": mend the file")


def test_toml_with_a_mark_of_its_encoding_is_read(tmp_path: Path):
    (tmp_path / "x.toml").write_bytes("a = 'ä'".encode("utf-8-sig"))
    assert read_toml(tmp_path / "x.toml", remedy="") == {"a": "ä"}


def test_only_regular_files_are_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, kind in (
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "socket", "a socket"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(ValueError, match=f"it must be a regular file, but is {kind}"):
            read_regular(path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        read_regular(tmp_path / "loop")


def test_the_size_is_bounded(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text(" " * 10)
    with pytest.raises(ValueError, match="it may have 9 bytes, but has 10"):
        read_regular(path, most=9)
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole: nothing of it is read
    with pytest.raises(ValueError, match="it may have 67108864 bytes, but has 2147483648"):
        read_json(path, remedy="")


@pytest.mark.parametrize(
    "change",
    [
        {"features": 3},
        {"coefficients": ["a"]},
        {"coefficients": []},
        {"ends": None},
        {"values": [[1]]},
        {"tables": [3]},
        {"tables": [{"dtype": "float32", "knots": [1, 2], "counts": [10**19, 1]}]},
        {"tables": [{"dtype": "object", "knots": [1, 2], "counts": [1, 1]}]},
        {"tables": [{"dtype": "float32", "knots": [], "counts": []}]},
        {"balance": []},
        {"provenance": 3},
        {"transform": {}},
        {"version": 10**19},
    ],
)
def test_a_sampler_with_strange_values_is_refused_in_one_line(tmp_path: Path, change: dict):
    rng = np.random.default_rng(0)
    columns = {"loss": rng.random(20, np.float32), "entropy": rng.random(20, np.float32)}
    path = tmp_path / "sampler.json"
    SwiftFit(columns, mass=None, transform="cdf").sampler(SwiftParams.uniform()).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        SwiftSampler.load(path)
    assert "\n" not in str(caught.value)
