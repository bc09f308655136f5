import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.embed import found_rows
from clipkit.embed.found_rows import describe, write_listing
from clipkit.errors import StoreError
from tests.embed.made_stores import make_store, unit


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("count", [0, 7])
def test_tables_have_what_was_found_and_what_the_store_tells(
    tmp_path: Path, suffix: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_rows, "_CHUNK", 3)
    label = [None, *["cat", "dö,g"] * 4]
    store = make_store(tmp_path / "store", unit(9, 4), shard_rows=4, columns={"label": label})
    found = [(8 - at, {"score": at / 2}) for at in range(count)]
    path = tmp_path / "new" / f"table.{suffix}"
    assert write_listing(path, describe(store, found)) == count
    expected = [
        {
            "score": at / 2,
            "row": 8 - at,
            "id": str(8 - at),
            "kind": "image",
            "label": label[8 - at],
            "caption": f"row {8 - at}",
            "path": None,
        }
        for at in range(count)
    ]
    if suffix == "csv":
        texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]
        with path.open(encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file)) == texts
    elif suffix == "jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == expected
    else:
        assert pq.read_table(path).to_pylist() == expected
    with pytest.raises(StoreError, match="is there already"):
        write_listing(path, [])
    assert len(list(path.parent.iterdir())) == 1


def test_other_kinds_of_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ends in none of \.csv, \.jsonl, \.parquet"):
        write_listing(tmp_path / "table.xlsx", [])


def test_types_that_the_first_rows_do_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_rows, "_CHUNK", 2)
    rows: list[dict[str, list[str]]] = [{"near": []}, {"near": []}, {"near": ["a"]}]
    schema = pa.schema([("near", pa.list_(pa.string()))])
    write_listing(tmp_path / "a.parquet", rows, schema)
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == rows
    write_listing(tmp_path / "none.parquet", [], schema)
    assert pq.read_schema(tmp_path / "none.parquet") == schema
