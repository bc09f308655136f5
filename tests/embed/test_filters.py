from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clipkit.embed.filters import as_expression, parse_filters
from clipkit.errors import StoreError

TABLE = pa.table(
    {
        "label": ["cat", "dog", None, "cat"],
        "year": [2019, 2020, 2021, None],
        "flag": [True, False, None, True],
        "embedding": pa.array([[0.0]] * 4, pa.list_(pa.float32(), 1)),
        "row": [0, 1, 2, 3],
    }
)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"label": "cat"}, [0, 3]),
        ({"label": ["cat", "dog"], "year": 2020}, [1]),
        ({"label": None}, [2]),
        ({"flag": True}, [0, 3]),
        ({}, [0, 1, 2, 3]),
        (pc.field("year") > 2019, [1, 2]),
    ],
    ids=["one", "both", "empty", "flag", "nothing", "expression"],
)
def test_values_and_expressions(given: Any, rows: list[int]) -> None:
    expression, columns = as_expression(given, TABLE.schema)
    needed = TABLE.select([*columns, "row"] if "row" not in columns else columns)
    assert needed.filter(expression)["row"].to_pylist() == rows
    assert "embedding" not in columns


@pytest.mark.parametrize(
    ("texts", "rows"),
    [
        (["label=cat"], [0, 3]),
        (["year>=2020"], [1, 2]),
        (["year<2020", "label=cat"], [0]),
        (["label!=cat"], [1]),
        (["flag=true"], [0, 3]),
        (["label = a=b"], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_texts_of_the_command_line(texts: list[str], rows: list[int]) -> None:
    expression = parse_filters(texts, TABLE.schema)
    assert TABLE.filter(expression)["row"].to_pylist() == rows


def test_what_cannot_be_used() -> None:
    for texts, sentence in (
        (["labl=cat"], "did you mean 'label'"),
        (["year=soon"], "column 'year' holds int64"),
        (["cat"], "not of the form column=value"),
        (["embedding=1"], "no column 'embedding'"),
    ):
        with pytest.raises(StoreError, match=sentence):
            parse_filters(texts, TABLE.schema)
    with pytest.raises(StoreError, match="holds int64, so it is never 'soon'"):
        as_expression({"year": "soon"}, TABLE.schema)
    with pytest.raises(StoreError, match="no column"):
        as_expression({"colour": "red"}, TABLE.schema)
    assert parse_filters([], TABLE.schema) is None
