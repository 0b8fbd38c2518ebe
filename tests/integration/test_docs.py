"""The Python of README.md and docs/*.md runs as it stands.

The ```python blocks of a file run in order, in one namespace and one temporary folder, with warnings as errors. A block
that cannot run by itself is passed over when the line above it is an HTML comment that says why:

    <!-- no-test: needs the data of the walk-through -->
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("README.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- no-test: \S.* -->\n\Z")


def blocks(text):
    """The blocks to run: line of the first statement, code."""
    return [
        (text.count("\n", 0, found.start(1)), found[1])
        for found in BLOCK.finditer(text)
        if not MARK.search(text[: found.start()])
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    namespace = {"__name__": path.stem}
    for line, code in blocks(path.read_text(encoding="utf-8")):
        exec(compile("\n" * line + code, str(path), "exec"), namespace)  # the lines of a traceback are the file's


def test_blocks_are_found_and_marked_ones_passed_over():
    text = "a\n```python\nx = 1\n```\n<!-- no-test: too big -->\n```python\nraise\n```\n\n```python\ny = 2\n```\n"
    assert blocks(text) == [(2, "x = 1\n"), (10, "y = 2\n")]
    assert len(blocks("<!-- no-test: -->\n```python\nx\n```\n")) == 1
    assert len(blocks("<!-- no-test: far above -->\n\n```python\nx\n```\n")) == 1


def test_a_wrong_block_would_fail():
    with pytest.raises(AssertionError):
        for line, code in blocks("```python\nassert 1 == 2\n```\n"):
            exec(compile("\n" * line + code, "x.md", "exec"), {})


def test_the_guide_to_streams_is_among_them():
    assert len(blocks((ROOT / "docs" / "streams.md").read_text(encoding="utf-8"))) >= 6
