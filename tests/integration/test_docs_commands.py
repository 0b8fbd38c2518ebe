"""Every `drawstream …` of README.md, docs/*.md and the help texts is taken by the real parser; nothing is run.

Commands of code blocks are whole, unless they hold an ellipsis; those within a line of text may leave arguments out.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer._click.exceptions import BadOptionUsage, ClickException, MissingParameter

from drawstream.tools.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "tools" / "bench" / "README.md"])
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_options_named_in_the_text_exist(path):
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    named = {name for code in INLINE.findall(prose) for name in re.findall(r"(?:^|[\s/\[(])(--[a-z][a-z0-9-]+)", code)}
    assert named - OPTIONS - FOREIGN == set()


def test_the_parser_finds_what_is_wrong():
    page = "```\ndrawstream train data -o runs --epoch-s 3\n```\n`drawstream train --epochs many`\n"
    first, second = commands(page)
    assert first == (["train", "data", "-o", "runs", "--epoch-s", "3"], True)
    with pytest.raises(ClickException, match="epoch-s"):
        parse(first[0], whole=True)
    with pytest.raises(ClickException, match="valid integer"):
        parse(second[0], whole=False)
    with pytest.raises(MissingParameter):
        parse(["train", "data"], whole=True)
    parse(["train", "data"], whole=False)


def test_commands_are_found():
    assert sum(len(list(commands(path.read_text(encoding="utf-8")))) for path in FILES) > 100
