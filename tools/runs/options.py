"""Options of commands as fields of frozen dataclasses: a field says default, help, bounds and known values, once.

    @dataclass(frozen=True, kw_only=True)
    class CountOptions(Options):
        source: Path = argument(help="Weights or a schedule.")
        epochs: int = option(3, "Epochs to count.", within=SOME)
        mode: Literal["stratified", "subset"] = option("stratified", "Mode of the stream.")

    @command(app, CountOptions)
    def count(given: CountOptions) -> None: ...

A `Literal` lists what is allowed; a tuple is a comma list, each number of it within the bounds; a list is an option
that may be repeated. `--help` shows a class's own options before those of its bases.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

Kind = TypeVar("Kind")

SEED, ROWS, MANY = (0, 2**64 - 1), (0, 10**11), (0, 10**9)  # beyond these no machine does the job, or a library fails
SOME, FEW, COUNT = (0, 10**6), (0, 10**4), (1, 10**4)
FINITE = (-sys.float_info.max, sys.float_info.max)
RENAMED = {"--batch-size": "--global-batch", "--warmup": "--uniform-epochs"}  # old: new
RENAMED |= {"--smoothing": "--count-smoothing", "--batch": "--round"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """Option of a field.

    Attributes:
        help: Help text.
        names: Names on the command line, if not the field's; None makes it an argument.
        within: Least and largest number.
        known: Values that the shell completes, where others are allowed too.
        check: Return the value, or refuse it.
        decides: Another value may give another result; such an option is part of the job's identity.
    """

    help: str
    names: tuple[str, ...] | None = ()
    within: tuple[float, float] | None = None
    known: Iterable[str] | Callable[[], Iterable[str]] = ()
    check: Callable[[Any], Any] | None = None
    decides: bool = True

    def flag(self, name: str) -> str:
        """The option as a message names it."""
        return max(self.names or (), key=len, default=f"--{name.replace('_', '-')}").partition("/")[0]


def option(default: Any, text: str, *names: str, **said: Any) -> Any:
    """Make a field an option; a default of `...` requires it. Keywords: within, known, check, decides."""
    return _field(default, _Said(help=text, names=names, **said))


def argument(text: str, default: Any = ...) -> Any:
    """Make a field an argument."""
    return _field(default, _Said(help=text, names=None))


def _field(default: Any, said: _Said) -> Any:
    given = {} if default is ... else {"default_factory": list} if default == [] else {"default": default}
    return field(metadata={"option": said}, **given)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of a command's options; every number is held to its bounds.

    Attributes:
        typed: Options that stand on the command line, by field; not those of a config file.
        stated: Those of the command line and of a config file.
    """

    typed: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    stated: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: A number is out of its bounds, or is not one.
        """
        for each, said, _ in _options(type(self)):
            value = getattr(self, each.name)
            for number in value if isinstance(value, tuple) else (value,):
                if said.within is not None and number is not None and not said.within[0] <= number <= said.within[1]:
                    low, high = said.within
                    raise ValueError(f"{said.flag(each.name)} must be in [{low}, {high}], but got {number}")

    def refuse_typed(self, names: Iterable[str], goes_with: str) -> None:
        """Refuse options of the command line that would do nothing; `goes_with` says what they are for."""
        flags = {each.name: said.flag(each.name) for each, said, _ in _options(type(self))}
        for name in names:
            if name in self.typed:
                raise ValueError(f"{flags[name]} goes with {goes_with}: leave it out")


def pick(kind: type[Kind], given: Options | Mapping[str, Any], /, **others: Any) -> Kind:
    """Make a dataclass from the options that bear its fields' names, and from others."""
    values = given if isinstance(given, Mapping) else vars(given)
    names = [each.name for each in fields(kind) if each.init and each.name in values]  # type: ignore[arg-type]
    return kind(**{name: values[name] for name in names} | others)


def deciding(kind: type[Options], /) -> dict[str, bool]:
    """Return for every option, by field, whether it decides a job's result."""
    return {each.name: said.decides for each, said, _ in _options(kind)}


def command(app: typer.Typer, kind: type[Options], name: str | None = None) -> Callable[[Any], Any]:
    """Add the function, which takes the options and whose docstring is the help text, to a group of commands."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(context: typer.Context, **values: Any) -> None:
            sources = {name: context.get_parameter_source(name) for name in values}
            typed = frozenset(name for name, source in sources.items() if source and source.name == "COMMANDLINE")
            stated = typed | {name for name, source in sources.items() if source and source.name == "DEFAULT_MAP"}
            for each, said, hint in _options(kind):
                if _items(hint):
                    text = values[each.name]
                    listed = each.default if text is None else _listed(said.flag(each.name), _items(hint), text)
                    values[each.name] = listed
            function(kind(**values, typed=typed, stated=stated))

        first = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [first, *(_parameter(*each) for each in _options(kind))]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = function.__doc__
        app.command(name or function.__name__.rstrip("_"))(run)
        return function

    return register


def _options(kind: type) -> Iterator[tuple[Field[Any], _Said, Any]]:
    """Field, text and type of each option, those of the class itself first."""
    hints = get_type_hints(kind)
    order = [name for base in kind.__mro__ for name in vars(base).get("__annotations__", ())]
    for each in sorted(fields(kind), key=lambda each: order.index(each.name)):
        if "option" in each.metadata:
            yield each, each.metadata["option"], hints[each.name]


def _parameter(each: Field[Any], said: _Said, hint: Any) -> inspect.Parameter:
    """The parameter that typer reads."""
    numeric = {int, float} & {hint, *get_args(hint), *_items(hint)}
    assert not numeric or said.within is not None, f"{each.name}: give bounds"
    default = list[Any]() if each.default_factory is not MISSING else each.default
    if _items(hint):
        hint = str | None if NoneType in get_args(hint) or default == () else str
        default = (
            ",".join(str(part).removesuffix(".0") for part in default) or None
            if isinstance(default, tuple)
            else default
        )
    info: dict[str, Any] = {"help": said.help, "callback": said.check}
    if said.known:
        info["autocompletion"] = _completion(said.known)
    shown = typer.Argument(**info) if said.names is None else typer.Option(*said.names, **info)
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(
        each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, shown]
    )


def _completion(known: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Values that begin with the typed text; none of them, and the shell offers files."""

    def begun(incomplete: str) -> list[str]:
        return [word for word in (known() if callable(known) else known) if word.startswith(incomplete)]

    return begun


def _items(hint: Any) -> tuple[Any, ...]:
    """Types of a comma list's parts; empty for another type."""
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is tuple:
            return get_args(kind)
    return ()


def _listed(flag: str, items: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    """Parts of a comma list; whole numbers may be written as 1e6.

    Raises:
        ValueError: One is of another type, or there are too many or too few.
    """
    kinds: dict[Any, tuple[Callable[[str], Any], str]]
    kinds = {int: (_whole, "whole numbers"), float: (float, "numbers"), str: (str, "words")}
    read, noun = kinds[items[0]]
    try:
        parts = tuple(read(part.strip()) for part in text.split(","))
    except (ValueError, OverflowError):
        raise ValueError(f"{flag} must be {noun} separated by commas, but got {text!r}") from None
    if items[-1] is not ... and len(parts) != len(items):
        raise ValueError(f"{flag} must be {len(items)} {noun}, from and to, but got {text!r}")
    return parts


def _whole(text: str) -> int:
    if text.lstrip("+-").isdecimal():
        return int(text)
    if float(text) != int(float(text)):
        raise ValueError(text)
    return int(float(text))
