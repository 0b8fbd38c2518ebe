"""Config files: a TOML file that holds options of any commands, `drawstream train --config job.toml`.

A table per command, its keys the names of options without their dashes, or of arguments in small letters:

    [train]
    catalog = "data/train"
    held-out = "data/holdout"
    epochs = 20

    [search.swift]
    features = ["loss", "entropy"]     # a list stands for a comma list, or for an option that is given several times

What is given on the command line wins. Paths are those of the folder where the command is started. The file is read
once, at the start: records keep what was read then, whatever becomes of the file during the run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from drawstream.tools.runs.options import RENAMED

Defaults = dict[str, Any]
OPTION = "--config"
_used: dict[str, Any] = {}  # what records keep: the content of the file that this process' command was given


def config_first(arguments: Sequence[str], /) -> list[str]:
    """Return the arguments with `--config FILE` before the command, wherever it stands; forget an earlier command's.

    Raises:
        ValueError: It is given twice, or without a file.
    """
    use_config({})
    given: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name == OPTION:
            file = value if equals else next(words, "")
            if not file or given:
                raise ValueError(f"{OPTION} {file or 'without a file'}: give one file, once")
            given = [OPTION, file]
        else:
            rest.append(word)
    return [*given, *rest]


class ConfigAnywhere(TyperGroup):
    """The group of all commands: `--config FILE` may stand before a command or after it, at any depth."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, the config file first; the shell's completion parses what is not whole yet."""
        return super().parse_args(ctx, args if ctx.resilient_parsing else config_first(args))


def use_config(content: Mapping[str, Any], /) -> None:
    """Note the content of a config file as used, for the records of this process; TOML's dates become text."""
    _used.clear()
    _used.update(json.loads(json.dumps(content, default=str)))


def used_config() -> dict[str, Any]:
    """Return `{"config": content}` of the config file in use, as it was read at the start; empty without one."""
    return {"config": dict(_used)} if _used else {}


def read_config(path: Path, root: Any, /) -> Defaults:
    """Return the defaults of all commands, by command and parameter, as the command line's parser takes them.

    Raises:
        ValueError: Not readable, not TOML, or a key that names no command or no option.
    """
    from drawstream.samplers.files import read_toml  # here: it brings Numba, which no help text needs

    try:
        content = read_toml(path, remedy="mend the file")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such config file") from None
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror}") from None
    try:
        found = _group_defaults(content, root, ())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    use_config(content)
    return found


def _group_defaults(content: Defaults, group: Any, above: tuple[str, ...]) -> Defaults:
    found: Defaults = {}
    for key in [each for each in content if each in group.commands]:
        below, words = group.commands[key], (*above, key)
        if not isinstance(content[key], dict):
            raise ValueError(f"{key} is a command: give its options in a table [{'.'.join(words)}]")
        read = _group_defaults if hasattr(below, "commands") else _command_defaults
        found[key] = read(content[key], below, words)
    own = {key: value for key, value in content.items() if key not in group.commands}
    default = getattr(group, "default_command", None)
    if own and default is not None:  # the options of `features` are those of `features extract`
        found[default] = _command_defaults(own, group.commands[default], above) | found.get(default, {})
    elif own:
        unknown = next(iter(own))
        takers = [] if isinstance(own[unknown], dict) else list(_takers(unknown, group, above))
        if takers:
            raise ValueError(f"{unknown} is an option: give it below [{'] or ['.join(takers)}]")
        raise ValueError(f"no command {' '.join((*above, unknown))!r}{_nearest(unknown, group.commands)}")
    return found


def _takers(option: str, group: Any, above: tuple[str, ...]) -> Iterator[str]:
    """Tables of the commands that have an option."""
    for key, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from _takers(option, each, (*above, key))
        elif option != "help" and any(f"--{option}" in parameter.opts for parameter in each.params):
            yield ".".join((*above, key))


def _command_defaults(content: Defaults, command: Any, above: tuple[str, ...]) -> Defaults:
    named = {name: parameter for parameter in command.params for name in parameter.opts}
    names = {name.removeprefix("--"): each for name, each in named.items() if name[:1] != "-" or name[:2] == "--"}
    found: Defaults = {}
    for key, value in content.items():
        parameter, where = names.get(key), f"[{'.'.join(above)}] {key}"
        new = RENAMED.get(f"--{key}", "").removeprefix("--")
        if parameter is None and new in names:
            raise ValueError(f"{where} is {new} now")
        if parameter is None or key in ("help", "h"):
            raise ValueError(f"{where}: {' '.join(above)} has no such option{_nearest(key, names)}")
        if isinstance(value, dict):
            raise ValueError(f"{where}: must be a value, but is a table")
        if parameter.multiple or parameter.nargs != 1:
            found[parameter.name] = value if isinstance(value, list) else [value]
        else:
            found[parameter.name] = ",".join(map(str, value)) if isinstance(value, list) else value
    return found


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f": do you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
