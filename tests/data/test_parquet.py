import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.data import decode_image, load_data
from clipkit.data.parquet import open_arrow_file
from clipkit.errors import DataError


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


def test_images_as_bytes_and_as_structs(tmp_path: Path) -> None:
    plain = pd.DataFrame({"jpg": [png("red"), png("blue"), b""], "txt": ["r", "b", "x"]})
    plain.to_parquet(tmp_path / "bytes.parquet")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    told = {"image": [{"bytes": png("red"), "path": "r.png"}, Image.new("RGB", (8, 6), "blue")]}
    written = datasets.Dataset.from_dict({**told, "text": ["r", "b"]}, features=features)
    written.to_parquet(tmp_path / "struct.parquet")
    for name in ("bytes", "struct"):
        data = load_data(tmp_path / f"{name}.parquet")
        pixels = []
        for sample in data:
            assert isinstance(sample.image, bytes)
            pixels.append(decode_image(sample.image).getpixel((0, 0)))
        assert pixels == [(255, 0, 0), (0, 0, 255)]
        assert [s.captions for s in data] == [("r",), ("b",)]
    assert [r.reason for r in load_data(tmp_path / "bytes.parquet").rejects] == ["file is empty"]


@pytest.mark.parametrize("batch_bytes", [1, 300, 1 << 20])
def test_the_copy_of_a_large_file_holds_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    monkeypatch.setattr("clipkit.data.parquet.IN_MEMORY", 0)
    monkeypatch.setattr("clipkit.data.parquet._BATCH_BYTES", batch_bytes)
    table = pa.table(
        {
            "image": [f"{n}.png" for n in range(1003)],
            "kind": pa.array(["a", "b", None] * 334 + ["c"]).dictionary_encode(),
            "tags": [[str(n)] * (n % 3) for n in range(1003)],
        }
    )
    path = tmp_path / f"{batch_bytes}.parquet"
    pq.write_table(table, path, row_group_size=97)
    rows = open_arrow_file(path)
    assert len(rows) == 1003
    expected = table.to_pylist()
    assert [rows.row(n) for n in range(1003)] == expected
    parts = [row for batch in rows.batches(["tags", "image"]) for row in batch.to_pylist()]
    assert parts == [{"tags": row["tags"], "image": row["image"]} for row in expected]
    again = open_arrow_file(path)  # from the copy
    assert again.row(500) == expected[500]
    pq.write_table(table.slice(1), path)
    assert open_arrow_file(path).row(0) == expected[1]


def test_the_stream_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"image": ["a.png", "b.png"], "n": [1, 2]})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    for limit in (1 << 20, 0):
        monkeypatch.setattr("clipkit.data.parquet.IN_MEMORY", limit)
        rows = open_arrow_file(tmp_path / "t.arrow")
        assert [rows.row(n) for n in range(2)] == table.to_pylist()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    pd.DataFrame({"image": ["a.png"] * 1000}).to_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "text.parquet").write_text("image,caption\n")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.arrow").write_text("image,caption\n")
    for name in ("cut.parquet", "text.parquet", "empty.parquet"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as parquet: "):
            open_arrow_file(tmp_path / name)
    with pytest.raises(DataError, match=r"text.arrow cannot be read as Arrow: "):
        open_arrow_file(tmp_path / "text.arrow")
    with pytest.raises(DataError, match=r"gone.parquet cannot be read: No such file"):
        open_arrow_file(tmp_path / "gone.parquet")
    pd.DataFrame({"image": []}).to_parquet(tmp_path / "norows.parquet")
    with pytest.raises(DataError, match="has no row that can be used"):
        load_data(tmp_path / "norows.parquet")
