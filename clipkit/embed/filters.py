"""Which rows of a store a search looks among: by label, or by any other column."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from clipkit.errors import StoreError, did_you_mean

Filter: TypeAlias = Mapping[str, Any] | pc.Expression
"""Values by column, such as `{"label": "cat", "year": [2020, 2021]}`, or pyarrow's expression."""

_SIGNS = {
    "!=": lambda column, value: column != value,
    "<=": lambda column, value: column <= value,
    ">=": lambda column, value: column >= value,
    "<": lambda column, value: column < value,
    ">": lambda column, value: column > value,
    "=": lambda column, value: column == value,
}


def as_expression(given: Filter, schema: pa.Schema) -> tuple[pc.Expression, list[str]]:
    """Return a filter as an expression, and the columns it may need.

    Args:
        given: values by column (a list: any of them; `None`: the column is empty), or an
            expression.
        schema: columns of the store.

    Raises:
        StoreError: there is no such column, or its values are of another type.
    """
    if isinstance(given, pc.Expression):
        return given, [name for name in schema.names if name != "embedding"]
    expression = pc.scalar(True)
    for name, value in given.items():
        _check_column(name, schema)
        values = list(value) if isinstance(value, list | tuple | set) else [value]
        try:
            typed = pa.array(values, schema.field(name).type)
        except (pa.ArrowException, TypeError, ValueError):
            raise StoreError(
                f"column {name!r} holds {schema.field(name).type}, so it is never {value!r}"
            ) from None
        expression = expression & pc.is_in(pc.field(name), value_set=typed, skip_nulls=False)
    return expression, list(given)


def parse_filters(texts: Sequence[str], schema: pa.Schema) -> pc.Expression | None:
    """Return what texts such as `label=cat` and `year>=2020` mean together.

    Raises:
        StoreError: a text is no such thing, or the column is missing or of another type.
    """
    expression = None
    for text in texts:
        found = re.fullmatch(r"([^=<>!]+)(!=|<=|>=|=|<|>)(.*)", text, re.DOTALL)
        if not found:
            raise StoreError(
                f"filter {text!r} is not of the form column=value (or !=, <, <=, >, >=)"
            )
        name, sign, written = found[1].strip(), found[2], found[3].strip()
        _check_column(name, schema)
        kind = schema.field(name).type
        try:
            value = pa.scalar(written).cast(kind)
        except pa.ArrowException:
            raise StoreError(f"filter {text!r}: column {name!r} holds {kind}") from None
        part = _SIGNS[sign](pc.field(name), value)
        expression = part if expression is None else expression & part
    return expression


def _check_column(name: str, schema: pa.Schema) -> None:
    names = [column for column in schema.names if column != "embedding"]
    if name not in names:
        raise StoreError(f"no column {name!r} to filter by{did_you_mean(name, names)}")
