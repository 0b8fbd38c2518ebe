"""The Python of README.md and docs/*.md runs as it stands.

The ```python blocks of a file run in order, in one namespace and one temporary folder, with warnings as errors. A block
that cannot run by itself is passed over when the line above it is an HTML comment that says why:

    <!-- no-test: needs the data of the walk-through -->

Its imports are run all the same, and the arguments of its calls are held against the signatures of what it imports.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("README.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- no-test: \S.* -->\n\Z")


def blocks(text, *, marked=False):
    """The blocks to run, or those passed over: line of the first statement, code."""
    return [
        (text.count("\n", 0, found.start(1)), found[1])
        for found in BLOCK.finditer(text)
        if bool(MARK.search(text[: found.start()])) == marked
    ]


def check_calls(code):
    """Run the imports of a block, and bind its calls to the signatures of what was imported.

    Raises:
        ImportError: A name is not there.
        TypeError: A call has an argument that the function does not take, or lacks one.
    """
    tree, namespace = ast.parse(code), {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), namespace)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            parts = ast.unparse(node.func).split(".")
            found = namespace.get(parts[0])
            for part in parts[1:] if found is not None else ():
                found = getattr(found, part)
            if found is not None and not any(isinstance(each, ast.Starred) for each in node.args):
                inspect.signature(found).bind(*node.args, **{each.arg: None for each in node.keywords})


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_calls_of_blocks_that_are_passed_over_fit(path):
    for _, code in blocks(path.read_text(encoding="utf-8"), marked=True):
        check_calls(code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_public_names_are_taught(path):
    found = re.findall(r"^ *(?:from|import) (drawstream[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found) <= {"drawstream", "drawstream.testing"}


def test_at_most_three_blocks_are_passed_over():
    assert sum(len(blocks(path.read_text(encoding="utf-8"), marked=True)) for path in FILES) <= 3


@pytest.mark.parametrize("call", ["IndexStream(3, sed=0)", "IndexStream()", "IndexStream.epochs(3)"])
def test_a_call_that_does_not_fit_would_fail(call):
    with pytest.raises((TypeError, AttributeError)):
        check_calls(f"from drawstream import IndexStream\n{call}\n")


def test_the_guide_to_streams_is_among_them():
    assert len(blocks((ROOT / "docs" / "streams.md").read_text(encoding="utf-8"))) >= 6


def templates():
    """Strings of the rooms' source, with … for what is filled in."""
    for room in ("samplers", "pipeline", "features", "search", "tools"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def quoted_messages(text):
    """What the first column of the guide's tables quotes."""
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return [
        found.strip("` ") for cell in cells for found in re.findall(r"`.+?`(?= ,|$| from)", cell.removeprefix("| "))
    ]


def test_messages_that_the_troubleshooting_guide_quotes_are_in_the_source():
    quoted = quoted_messages((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) >= 25
    known = "\0".join(templates()).replace("`", "")
    for message in quoted:
        parts = [re.escape(part) for part in message.replace("`", "").split("…")]
        assert re.search("[^\0]*".join(parts), known), message


def anchor(heading):
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            file, _, name = link.partition("#")
            target = (path.parent / file) if file else path
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if name else []
            assert not name or name in [anchor(heading) for heading in headings], link


def test_the_readme_names_every_guide():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guides = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert guides == set(re.findall(r"^\| \[[^]]+\]\((docs/[a-z-]+\.md)\)", readme, re.MULTILINE))
