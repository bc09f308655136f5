from pathlib import Path

import pandas as pd
import pytest

from clipkit.data.columnar import ColumnarSamples, Rows
from clipkit.data.jsonl import JsonRows
from clipkit.data.parquet import open_arrow_file
from clipkit.data.scan import read_columnar
from clipkit.errors import DataError


def test_rows_of_one_image_are_one_sample_wherever_they_stand(photos: Path) -> None:
    names = ["red0.png", "blue0.png", "red0.png", "green0.png", "blue0.png", "red0.png"]
    captions = ["a", "b", "c", "d", "e", "f"]
    table = pd.DataFrame(
        {"image": names, "caption": captions, "label": ["r", "b", "x", "g", "b", "r"]}
    )
    table.to_parquet(photos / "t.parquet")
    rows = open_arrow_file(photos / "t.parquet")
    assert isinstance(rows, Rows)
    samples, rejects = read_columnar(rows, root=photos)
    assert [(s.id, s.captions, s.label) for s in samples] == [
        ("red0.png", ("a", "c", "f"), "r"),
        ("blue0.png", ("b", "e"), "b"),
        ("green0.png", ("d",), "g"),
    ]
    assert not rejects
    assert samples.first_rows().tolist() == [0, 1, 3]


def test_a_file_that_changes_meanwhile(photos: Path) -> None:
    path = photos / "t.jsonl"
    lines = '{"image": "red0.png", "caption": "a"}\n{"image": "red1.png", "caption": "b"}\n'
    path.write_text(lines)
    samples, _ = read_columnar(JsonRows(path), root=photos)
    assert isinstance(samples, ColumnarSamples)
    assert samples[1].captions == ("b",)
    path.write_text(lines.replace('"red1.png"', '{"x": "1.png'))
    with pytest.raises(DataError, match="line 2 is no JSON object; the file changed meanwhile"):
        samples[1]
