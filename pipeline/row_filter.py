"""Conditions on rows, as text: ``height >= 128 and source != 'b' and loss < 3``.

    condition   comparison, or conditions under and, or, not, and in parentheses
    comparison  COLUMN == != < <= > >= VALUE, in any order and chained (64 <= height < 256); two columns may be compared
                COLUMN in (VALUE, …), not in, of one value too;  COLUMN is null, is not null (a NaN is null, too)
    VALUE       a number, a text in quotes, True, False

The text is read by Python's own grammar into a tree, of which only these parts are taken, and becomes an expression of
pyarrow.compute: nothing in it is called. A comparison with a null or a NaN does not hold.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog

__all__ = ["Column", "RowFilter", "catalog_columns"]

Column = Callable[[], Any]  # a column when it is asked for: an array of NumPy or Arrow (rows,)
_NULLS = ("null", "None")
_SHOWN = 12  # columns in a message
_LONGEST = 100  # characters of a condition in it
_COMPARED: dict[type[ast.cmpop], Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A condition on the rows of a catalog or table; `parse` reads one.

    Attributes:
        text: The condition, spaces and quotes as Python writes them: equal for equal conditions.
        names: Columns that it reads, in order.
    """

    text: str
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Read a condition.

        Args:
            text: As the module says.

        Raises:
            ValueError: It is no such condition; the message shows the part that is not understood.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise _unknown(text, text) from None
        _build(tree, text, lambda _: pa.null())
        names = [each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and each.id not in _NULLS]
        return cls(ast.unparse(tree), tuple(dict.fromkeys(names)))

    def mask(self, columns: Mapping[str, Column], /) -> NDArray[np.bool_]:
        """Return for each row whether the condition holds.

        Args:
            columns: Every column that may be named; those that are read must have one length.

        Returns:
            bool (rows,).

        Raises:
            ValueError: There is no such column, a column has another type than what it is compared with, or the
                condition holds for no row.
        """
        for name in self.names:
            if name not in columns:
                near = get_close_matches(name, columns, n=3)
                some = near or sorted(columns)[:_SHOWN]
                known = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(some)}"
                raise ValueError(f"where {self.text!r}: no column {name!r}: {known}")
        table = pa.table({name: pa.array(columns[name]()) for name in self.names})
        try:
            expression = _build(
                ast.parse(self.text, mode="eval").body, self.text, lambda name: table.schema.field(name).type
            )
            found = ds.dataset(table).to_table(columns={"held": expression})["held"]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            types = ", ".join(f"{name} is {table.schema.field(name).type}" for name in self.names)
            raise ValueError(f"where {self.text!r}: these columns cannot be compared so: {types}") from error
        held = np.array(pc.fill_null(found.combine_chunks().cast(pa.bool_()), False).to_numpy(zero_copy_only=False))
        if not held.any():
            raise ValueError(f"where {self.text!r}: it holds for none of {held.size} rows: loosen the condition")
        return held


def catalog_columns(catalog: "Catalog", /) -> dict[str, Column]:
    """Return the columns of a catalog that conditions may name.

    Args:
        catalog: An opened catalog, or several as one.

    Returns:
        By name: ``key``, ``source`` (its short name), ``height``, ``width``, ``size`` (bytes), ``encoding``, ``shard``
        (its path); of classes ``label``, ``class_name`` and, where it is known, ``clean_label``.
    """
    columns: dict[str, Column] = {
        "key": lambda: catalog.keys,
        "source": lambda: _named(catalog.source, catalog.sources),
        "shard": lambda: _named(catalog.shard, [shard.path for shard in catalog.shards]),
        "encoding": lambda: catalog.encodings,
        **{name: lambda name=name: getattr(catalog, name) for name in ("height", "width", "size")},  # type: ignore[misc]
    }
    if catalog.label_kind == "class":
        columns["label"] = lambda: catalog.label
        columns["class_name"] = lambda: _named(catalog.label, catalog.classes)
        if catalog.clean_label is not None:
            columns["clean_label"] = lambda: catalog.clean_label
    return columns


def _named(codes: NDArray[Any], names: Any) -> pa.Array:
    """Names by their numbers, as an Arrow dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(names), pa.string()))


def _build(node: ast.AST, text: str, type_of: Callable[[str], Any]) -> pc.Expression:
    """The expression of a condition; `type_of` is asked for the type of each column."""
    match node:
        case ast.BoolOp(op=operator, values=values):
            first, *others = (_build(each, text, type_of) for each in values)
            for each in others:
                first = first & each if isinstance(operator, ast.And) else first | each
            return first
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_build(operand, text, type_of)
        case ast.Compare(left=left, ops=operators, comparators=right):
            sides = [left, *right]
            found = None
            for a, compared, b in zip(sides, operators, right, strict=False):
                each = _compared(a, compared, b, text, type_of)
                found = each if found is None else found & each
            assert found is not None
            return found
    raise _unknown(text, ast.unparse(node))


def _compared(a: ast.expr, operator: ast.cmpop, b: ast.expr, text: str, type_of: Callable[[str], Any]) -> pc.Expression:
    whole = ast.unparse(ast.Compare(a, [operator], [b]))
    if isinstance(operator, ast.Is | ast.IsNot):
        if not isinstance(a, ast.Name) or ast.unparse(b) not in _NULLS:
            raise _unknown(text, whole)
        type_of(a.id)
        null = pc.field(a.id).is_null(nan_is_null=True)
        return ~null if isinstance(operator, ast.IsNot) else null
    if isinstance(operator, ast.In | ast.NotIn):
        listed = b.elts if isinstance(b, ast.Tuple | ast.List | ast.Set) else [b]  # (1) is 1 to Python
        if not isinstance(a, ast.Name) or not listed or isinstance(b, ast.Name):
            raise _unknown(text, whole)
        kind = type_of(a.id)
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        values = [_value(each, text) for each in listed]
        for value in values:
            _require_alike(text, whole, (a.id, kind), ("", value))
            _require_alike(text, whole, ("", values[0]), ("", value))
        known = pa.array(values) if pa.types.is_null(kind) or _fits(kind, values) else pa.array(values, kind)
        inside = pc.field(a.id).cast(known.type).isin(known)
        return ~inside if isinstance(operator, ast.NotIn) else inside
    if not any(isinstance(each, ast.Name) for each in (a, b)):
        raise _unknown(text, whole)
    left, right = (
        (each.id, type_of(each.id)) if isinstance(each, ast.Name) else ("", _value(each, text)) for each in (a, b)
    )
    _require_alike(text, whole, left, right)
    return _COMPARED[type(operator)](_side(a, text, type_of), _side(b, text, type_of))


_Side = tuple[str, Any]  # a column and its type; or "" and a value


def _require_alike(text: str, whole: str, *sides: _Side) -> None:
    """Refuse to compare a number with a text, or either with True and False."""
    kinds = [_kind_of(of) if name else _kind_of(pa.scalar(of).type) for name, of in sides]
    if "" in kinds or kinds[0] == kinds[1]:
        return
    told = [
        f"column {name} holds {kind} ({of})" if name else f"{of!r} is {_ONE[kind]}"
        for (name, of), kind in zip(sides, kinds, strict=True)
    ]
    wanted = next((kind for (name, _), kind in zip(sides, kinds, strict=True) if name), kinds[0])
    raise ValueError(f"where {_quoted(text, _LONGEST)}: {whole}: {' and '.join(told)}: compare {wanted} with {wanted}")


_ONE = {"numbers": "a number", "texts": "a text", "True and False": "True or False"}


def _kind_of(kind: pa.DataType) -> str:
    """Return what values of a type are; empty for types that say nothing here."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "texts"
    return "True and False" if pa.types.is_boolean(kind) else ""


def _fits(kind: pa.DataType, values: list[Any]) -> bool:
    """Whether values are compared as numbers of their own type, such as 0.5 with whole numbers."""
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and all(
        type(each) in (int, float) for each in values
    )


def _side(node: ast.expr, text: str, type_of: Callable[[str], Any]) -> pc.Expression:
    if isinstance(node, ast.Name) and node.id not in _NULLS:
        kind = type_of(node.id)
        named = pc.field(node.id)
        return named.cast(pa.string()) if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) else named
    return pc.scalar(_value(node, text))


def _value(node: ast.expr, text: str) -> Any:
    """A number, text or truth value."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, text)
        if type(value) in (int, float):
            return -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool):
        if type(node.value) is int and abs(node.value) >= 1 << 63:
            raise _unknown(text, ast.unparse(node))
        return node.value
    raise _unknown(text, ast.unparse(node))


def _unknown(text: str, part: str) -> ValueError:
    law = "comparisons of columns with numbers and 'texts', `in (…)`, `is null`, joined by and, or, not"
    whole, part = _quoted(text, _LONGEST), _quoted(part, _LONGEST)
    return ValueError(f'where {whole}: {part} is not understood: give {law}, as "height >= 128 and label in (1, 3)"')


def _quoted(text: str, most: int) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= most else f"{text[:most]}…")
