"""What an audit finds, against data whose flaws are known."""

import json
from pathlib import Path

import pytest

from clipkit.data.audit import audit
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.types import Sample
from tests.conftest import COLOURS, square


@pytest.fixture
def flawed(photos: Path) -> Path:
    """The folder of 18, with two broken pictures, an empty caption, and two copies of one."""
    (photos / "red1.png").write_bytes(b"not a picture")
    (photos / "red2.png").write_bytes((photos / "blue2.png").read_bytes()[:90])
    (photos / "green0.txt").write_text("  \n")
    for name in ("x1", "x2"):
        (photos / f"{name}.png").write_bytes((photos / "blue0.png").read_bytes())
        (photos / f"{name}.txt").write_text(f"a copy called {name}\n")
    return photos


def test_rows_and_rejects_add_up(flawed: Path) -> None:
    found = audit([load_data(flawed)])
    part = found.parts[0]
    assert (part.usable, part.rejected) == (17, 3)
    assert found.rows == 20
    assert sum(part.reasons.values()) == 3
    assert part.reasons["empty caption"] == 1
    assert part.examples["cannot identify image file"] == [
        {"id": "red1.png", "where": str(flawed / "red1.png")}
    ]
    assert {reject.id for reject in found.rejects} == {"red1.png", "red2.png", "green0.png"}


def test_what_recurs(flawed: Path) -> None:
    part = audit([load_data(flawed)]).parts[0]
    assert (part.same_image.groups, part.same_image.rows) == (1, 3)
    assert part.same_image.examples[0].ids == ["blue0.png", "x1.png", "x2.png"]
    # Each colour has one caption for its three pictures, but for those that were rejected.
    groups = {group.what: group.count for group in part.same_caption.examples}
    assert groups == {
        f"a photo of a {colour} square": 2 if colour == "green" else 3
        for colour in COLOURS
        if colour != "red"
    }
    assert (part.same_caption.groups, part.same_caption.rows) == (5, 14)


def test_a_caption_that_only_copies_of_a_picture_have_does_not_recur() -> None:
    picture = square("red")
    rows = [Sample("a", picture, ("One thing",)), Sample("b", picture.copy(), ("one  thing",))]
    part = audit([Dataset("two", rows)]).parts[0]
    assert part.same_image.rows == 2
    assert part.same_caption.groups == 0


def test_captions_that_would_be_cut(photos: Path) -> None:
    (photos / "red0.txt").write_text("one two three four five six seven\nshort\n")
    part = audit(
        [load_data(photos)],
        count_tokens=lambda texts: [len(text.split()) + 2 for text in texts],
        context_length=7,
        resolution=41,
    ).parts[0]
    captions = part.captions
    assert captions is not None
    assert captions.count == 19
    assert (captions.a_row.least, captions.a_row.greatest) == (1, 2)
    assert captions.longest == "red0.png"
    # "a photo of a … square" has 6 words and 8 tokens: 17 of them lose one, the long one two.
    assert captions.cut == 18
    assert captions.lost is not None
    assert (captions.lost.least, captions.lost.median, captions.lost.greatest) == (1, 1, 2)
    assert part.small == 18  # 48 x 40


def test_without_a_model_nothing_is_said_of_it(photos: Path) -> None:
    part = audit([load_data(photos)]).parts[0]
    assert part.small is None
    assert part.captions is not None
    assert part.captions.cut is None


def test_what_two_parts_share(tmp_path: Path) -> None:
    a, b, c = square("red"), square("blue"), square("green")
    first = Dataset("first", [Sample("a", a, ("red", "one")), Sample("b", b, ("blue",))])
    second = Dataset(
        "second",
        [
            Sample("a2", a, ("RED",)),  # picture and caption
            Sample("b2", b, ("azure",)),  # the picture alone
            Sample("c", c, ("green", "Blue", "one")),  # captions alone
        ],
    )
    pair = audit([first, second]).shared[0]
    assert (pair.first, pair.second) == ("first", "second")
    assert (pair.images, pair.captions, pair.pairs) == (2, 2, 1)
    assert pair.examples == [("a", "a2"), ("b", "b2")]


def test_classes_with_none_are_counted(classes: Path) -> None:
    data = load_data(classes)
    padded = Dataset("classes", data.samples, (*data.class_names, "mauve"))
    part = audit([padded]).parts[0]
    assert part.classes == {**dict.fromkeys(sorted(COLOURS), 2), "mauve": 0}
    assert list(part.classes)[-1] == "mauve"
    assert part.unlabelled == 0
    assert part.captions is None


def test_all_of_it_is_json(flawed: Path) -> None:
    found = audit([load_data(flawed), load_data("skimage_photos")]).to_dict()
    told = json.loads(json.dumps(found))
    assert [part["usable"] for part in told["parts"]] == [17, 20]
    assert told["rows"] == 40
    assert told["shared"][0]["images"] == 0


def test_nothing_usable_at_all() -> None:
    part = audit([Dataset("none", [Sample("a", b"no picture", ("a",))])]).parts[0]
    assert (part.usable, part.rejected) == (0, 1)
    assert part.width is None
    assert part.same_image.groups == 0
