from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipkit.data import decode_image, load_data
from clipkit.data.hub import open_hub
from clipkit.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def written() -> Any:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["red", "blue"]),
            "captions": datasets.Sequence(datasets.Value("string")),
        }
    )
    told = {
        "img": [Image.new("RGB", (8, 6), c) for c in ("red", "blue", "red")],
        "label": [0, 1, 0],
        "captions": [["r", "red"], ["b"], ["", "r"]],
    }
    return datasets.Dataset.from_dict(told, features=features)


def check(data: Any) -> None:
    assert [(s.captions, s.label) for s in data] == [
        (("r", "red"), "red"),
        (("b",), "blue"),
        (("r",), "red"),
    ]
    assert decode_image(data[1].image).getpixel((0, 0)) == (0, 0, 255)
    assert data.class_names == ("red", "blue")
    assert [r.reason for r in data.rejects] == ["empty caption"]


def test_what_save_to_disk_wrote(written: Any, tmp_path: Path) -> None:
    written.save_to_disk(tmp_path / "one")
    check(load_data(tmp_path / "one"))
    check(load_data(f"hub:{tmp_path / 'one'}"))
    with pytest.raises(DataError, match="has no splits, and 'dev' is asked for"):
        load_data(f"{tmp_path / 'one'}@dev")
    datasets.DatasetDict({"train": written, "dev": written.select([1])}).save_to_disk(
        tmp_path / "two"
    )
    check(load_data(f"{tmp_path / 'two'}@train"))
    assert len(load_data(f"{tmp_path / 'two'}@dev")) == 1
    with pytest.raises(DataError, match="has several splits: name one of train, dev"):
        load_data(tmp_path / "two")
    with pytest.raises(DataError, match=r"has no split 'tain'; did you mean 'train'"):
        load_data(f"{tmp_path / 'two'}@tain")


def test_a_folder_of_parquet_files(written: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    written.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    check(load_data(tmp_path / "set"))
    check(load_data(f"hub:{tmp_path / 'set'}@train"))


def test_a_folder_with_a_card_is_read_as_it_is_now(written: Any, tmp_path: Path) -> None:
    """What `datasets` keeps in its cache is not taken for another folder, or for a later state."""
    card = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    for parent, count in (("a", 3), ("b", 2), ("a", 1)):
        folder = tmp_path / parent / "set"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        written.select(range(count)).to_parquet(folder / "data" / "train-0.parquet")
        assert len(load_data(f"hub:{folder}")) == count


def test_the_first_rows_of_a_stream(written: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    written.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    rows = open_hub(str(tmp_path / "set"), split="train", first_rows=2)
    assert len(rows) == 2
    assert rows.class_names("label") == ["red", "blue"]
    assert rows.row(1)["captions"] == ["b"]


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nobody/nothing cannot be loaded by datasets: ") as raised:
        load_data("hub:nobody/nothing")
    assert "\n" not in str(raised.value)
