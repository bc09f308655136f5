from pathlib import Path

import pandas as pd
import pytest

from clipkit.data import Dataset, load_data
from clipkit.data.columnar import ColumnarSamples
from clipkit.data.dataset import text_key
from clipkit.data.label_captions import NEITHER, caption_labels
from clipkit.errors import ConfigError, DataError
from clipkit.types import Sample
from tests.conftest import square


def test_labels_speak_where_there_are_no_captions() -> None:
    picture = square("red")
    rows = [
        Sample("a", picture, ("its own words",), "cat"),
        Sample("b", picture, (), "cat"),
        Sample("c", picture),
        Sample("d", picture, (), "hot {} dog"),
    ]
    data = caption_labels(Dataset("mixed", rows))
    assert [(s.id, s.captions) for s in data] == [
        ("a", ("its own words",)),
        ("b", ("a photo of a cat.",)),
        ("d", ("a photo of a hot {} dog.",)),
    ]
    assert [(r.id, r.reason) for r in data.rejects] == [("c", NEITHER)]


def test_the_templates_of_the_data_and_of_the_caller(classes: Path) -> None:
    plain = load_data(classes)
    own = Dataset("own", plain.samples, plain.class_names, ("a drawing of {}", "{}"))
    assert caption_labels(own)[0].captions == ("a drawing of black",)
    assert caption_labels(own, ["{}!", "a {}"])[0].captions == ("black!", "a black")
    with pytest.raises(ConfigError, match="not exactly one"):
        caption_labels(own, ["{}", "a photo"])


def test_captions_of_one_label_say_the_same(classes: Path) -> None:
    data = load_data(classes)
    told = caption_labels(data, ["a photo of a {}.", "{}", "A  {}"])
    keys = [{told.caption_key(caption) for caption in sample.captions} for sample in told]
    assert all(len(some) == 1 for some in keys)
    by_label = {sample.label: some for sample, some in zip(told, keys, strict=True)}
    assert len({key for some in by_label.values() for key in some}) == len(data.class_names)
    assert told.caption_key("other words") == text_key("other words")
    apart = {data.caption_key(caption) for caption in told[0].captions}
    assert len(apart) == 3  # without templates captions are what their words are


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(DataError, match="its 2 rows have neither captions nor labels"):
        caption_labels(Dataset("bare", [Sample("a", square("red")), Sample("b", square("blue"))]))


@pytest.mark.parametrize("captions", [True, False])
def test_a_table_on_disk(photos: Path, captions: bool) -> None:
    names = [f"{colour}{n}.png" for n in range(3) for colour in ("red", "blue", "green")]
    labels = ["red", "blue", None] * 2 + ["red", "nan", "green"]
    table = pd.DataFrame({"image": names, "label": labels})
    if captions:
        table["caption"] = "words"
    table.to_parquet(photos / "t.parquet")
    data = caption_labels(load_data(photos / "t.parquet"), ["a photo of a {}.", "one {}"])
    assert isinstance(data.samples, ColumnarSamples)
    assert len(data.captioned()) == len(data)
    if captions:
        assert {s.captions for s in data} == {("words",)}
        return
    assert [(s.id, s.captions) for s in data] == [
        (name, (f"a photo of a {label}.", f"one {label}"))
        for name, label in zip(names, labels, strict=True)
        if label not in (None, "nan")
    ]
    assert {r.id for r in data.rejects} == {"green0.png", "green1.png", "blue2.png"}
