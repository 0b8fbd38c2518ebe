"""The Python of README.md and docs/*.md runs as it stands.

The ```python blocks of a file run in order, in one namespace and one temporary folder, with warnings as errors. A block
that cannot run by itself is passed over when the line above it is an HTML comment that says why:

    <!-- no-test: needs the data of the walk-through -->

Its imports are run all the same, and the arguments of its calls are held against the signatures of what it imports.
"""

import ast
import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer._click.exceptions import BadOptionUsage, ClickException, MissingParameter

from drawstream.tools.cli.app import app, main
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.models import build_model
from shared.refusals import refused
from shared.samples import LABELS, PIXELS

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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    namespace = {"__name__": path.stem}
    known = dict(METHODS)
    for line, code in blocks(path.read_text(encoding="utf-8")):
        exec(compile("\n" * line + code, str(path), "exec"), namespace)  # the lines of a traceback are the file's
    METHODS.clear()  # a guide that adds a method adds it for itself
    METHODS.update(known)


def test_blocks_are_found_and_marked_ones_passed_over():
    text = "a\n```python\nx = 1\n```\n<!-- no-test: too big -->\n```python\nraise\n```\n\n```python\ny = 2\n```\n"
    assert blocks(text) == [(2, "x = 1\n"), (10, "y = 2\n")]
    assert len(blocks("<!-- no-test: -->\n```python\nx\n```\n")) == 1
    assert len(blocks("<!-- no-test: far above -->\n\n```python\nx\n```\n")) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_of_blocks_that_are_passed_over_fit(path):
    for _, code in blocks(path.read_text(encoding="utf-8"), marked=True):
        check_calls(code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            file, _, name = link.partition("#")
            target = (path.parent / file) if file else path
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if name else []
            assert not name or name in [anchor(heading) for heading in headings], link


def test_the_list_of_guides_names_each_once():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| \[[^]]+\]\(([a-z-]+\.md)\)", index, re.MULTILINE)
    assert sorted(found) == sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md")


GUIDE = (ROOT / "docs" / "walk-through.md").read_text(encoding="utf-8")
SMALLER = {  # what a test adds to each command, to be done in seconds
    "train": "--model mlp --epochs 4 --global-batch 32",
    "features": "--model mlp",
    "search": "--model mlp --global-batch 32 --epochs 4 --trials 5 --confirm-top 1 --confirm-seeds 2",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with digits as two .npz files."""
    np.savez(tmp_path / "train.npz", images=PIXELS[:700], labels=LABELS[:700])
    np.savez(tmp_path / "test.npz", images=PIXELS[700:900], labels=LABELS[700:900])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def walk_through():
    """The commands of the step-by-step block, as argument lists."""
    block = re.search(r"```\n(drawstream pack .*?)```", GUIDE, re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].replace("\\\n", " ").splitlines()]


def test_walk_through_and_training_loop(folder, capsys):
    commands = walk_through()
    assert [command[0] for command in commands] == ["pack", "pack", "train", "features", "search", "train", "report"]
    for command in commands:
        if command[0] == "pack":
            source = "test.npz" if "test" in command else "train.npz"
            command[1] = source
            command = [c if c not in ("25000", "5000") else {"25000": "700", "5000": "150"}[c] for c in command]
        assert main([*command, *SMALLER.get(command[0], "").split()]) == 0, capsys.readouterr().err
    assert (folder / "report.html").stat().st_size > 1_000_000  # the charts' code is inside

    code = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert code is not None
    names = {"model": build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)}
    exec(compile(code[1], "walk-through.md", "exec"), names)
    assert len(names["batch"].images) > 0
    assert names["loader"].state_dict()["epoch"] == 1
    assert bool((names["loss"] > 0).all())


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "tools" / "bench" / "README.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
CALL = re.compile(r"^\s*(?:\w+=\S+ )*(?:\.venv/bin/)?(?:drawstream|torchrun .*?-m drawstream\.tools\.cli)\s(.*)$")
EXAMPLE = re.compile(r"[:;] (drawstream [^;]*)")
ROOT_COMMAND = typer.main.get_command(app)
NOT_PARSED = "COMMAND", "--install-completion", "--show-completion"  # a placeholder, and what acts while it is parsed
FOREIGN = {  # of other programs; --help is of every command
    "--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--logdir", "--no-deps", "--index-url",
    "--help",
}  # fmt: skip


def calls(text, *, whole):
    """The argument lists of the commands in a text, each with whether nothing is left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if (found := CALL.match(line)) and not found[1].startswith(NOT_PARSED):
            yield [word for word in shlex.split(found[1], comments=True) if word != "…"], whole and "…" not in line


def commands(text):
    """Those of a page: of code blocks, and of code within its lines."""
    for kind, block in FENCE.findall(text):
        if kind in ("", "sh", "bash"):
            yield from calls(block, whole=True)
    prose = FENCE.sub("", text)
    for block in INDENTED.findall(prose):
        yield from calls(block, whole=True)
    for code in INLINE.findall(prose):
        yield from calls(" ".join(code.split()), whole=False)


def parse(words, *, whole, command=None, parent=None):
    """Take a command line as the program does, without running it.

    Raises:
        ClickException: There is no such command or option, a value does not parse, or an argument is missing.
    """
    command = command or ROOT_COMMAND
    if not (words or whole):
        return
    try:
        context = command.make_context(command.name or "drawstream", list(words), parent=parent)
    except (MissingParameter, BadOptionUsage):  # an argument is left out, or the value of the last option
        if whole:
            raise
        return
    rest = [*context._protected_args, *context.args]
    if hasattr(command, "commands") and rest:
        name, below, rest = command.resolve_command(context, rest)
        below.name = name
        parse(rest, whole=whole, command=below, parent=context)


def leaves(command, path=()):
    """All commands by their path."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from leaves(below, (*path, name))
    else:
        yield " ".join(path), command


LEAVES = dict(leaves(ROOT_COMMAND))
PARAMETERS = [parameter for each in (ROOT_COMMAND, *LEAVES.values()) for parameter in each.params]
OPTIONS = {option for each in PARAMETERS for option in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_of_a_page_are_parsed(path):
    wrong = []
    for words, whole in commands(path.read_text(encoding="utf-8")):
        try:
            parse(words, whole=whole)
        except ClickException as error:
            wrong.append(f"drawstream {shlex.join(words)}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", LEAVES)
def test_the_example_of_a_help_text_is_parsed(name):
    paragraphs = [" ".join(each.split()) for each in (LEAVES[name].help or "").split("\n\n")]
    examples = [example for each in paragraphs for example in EXAMPLE.findall(each)]
    assert examples, f"{name} has no example in its help"
    for words, whole in calls("\n".join(examples), whole=True):
        parse(words, whole=whole)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_options_named_in_the_text_exist(path):
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    named = {name for code in INLINE.findall(prose) for name in re.findall(r"(?:^|[\s/\[(])(--[a-z][a-z0-9-]+)", code)}
    assert named - OPTIONS - FOREIGN == set()


def test_the_parser_finds_what_is_wrong():
    page = "```\ndrawstream train data -o runs --epoch-s 3\n```\n`drawstream train --epochs many`\n"
    first, second = commands(page)
    assert first == (["train", "data", "-o", "runs", "--epoch-s", "3"], True)
    refused("epoch-s", parse, first[0], error=ClickException, whole=True)
    refused("valid integer", parse, second[0], error=ClickException, whole=False)
    with pytest.raises(MissingParameter):
        parse(["train", "data"], whole=True)
    parse(["train", "data"], whole=False)


def test_commands_are_found():
    assert sum(len(list(commands(path.read_text(encoding="utf-8")))) for path in PAGES) > 100
