from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipkit.classify import ZeroShotClassifier
from clipkit.classify.pseudo_labels import Guesses, guess
from clipkit.data import Dataset, load_data
from clipkit.errors import ConfigError, DataError, RejectedError
from clipkit.labelling.sure import Sure, make_sure
from clipkit.labelling.write import HAS_A_LABEL, LEARNED_FROM, NO_CLASS, NO_TEXT, Asking, Rule
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Reject, Sample
from tests.conftest import COLOURS, square

NAMES = list(COLOURS)


@pytest.fixture
def sure(model: DualEncoder) -> Sure:
    return make_sure(ZeroShotClassifier(model, NAMES), None, None)


def test_rows_with_labels(sure: Sure, photos: Path) -> None:
    samples = list(load_data(photos))
    samples[0] = replace(samples[0], label="red")
    samples[1] = replace(samples[1], label="zebra")
    data = Dataset("mixed", samples)
    assert Asking(data, sure).rows == list(range(2, 18))
    assert Asking(data, sure, "keep").rows == list(range(2, 18))
    assert Asking(data, sure, "relabel").rows == list(range(18))
    with pytest.raises(DataError, match=r"none of its 1 rows is to be labelled .1 has a label"):
        Asking(Dataset("all", samples[:1]), sure)


def test_what_is_kept_of_rows_with_labels(sure: Sure, photos: Path, tmp_path: Path) -> None:
    samples = list(load_data(photos))
    samples[0] = replace(samples[0], label="red")
    samples[1] = replace(samples[1], label="zebra")
    data = Dataset("mixed", samples)
    for labelled, left_out in (
        ("skip", {HAS_A_LABEL: 2}),
        ("keep", {NO_CLASS: 1}),
        ("relabel", {}),
    ):
        asking = Asking(data, sure, labelled)  # type: ignore[arg-type]
        guesses = guess(sure.classifier, [data[at] for at in asking.rows])
        told = asking.write(tmp_path / "out", guesses, Rule())
        assert told.left_out == left_out
        assert told.rows == 18 == sum(told.labels.values()) + sum(told.left_out.values())
        written = {sample.id: sample for sample in load_data(told.manifest)}
        assert (samples[0].id in written) == (labelled != "skip")
        if labelled == "keep":
            assert written[samples[0].id].label == "red"
            assert written[samples[0].id].metadata["confidence"] == 1.0
            assert written[samples[0].id].metadata["given"]


def test_pictures_that_were_learned_from_get_no_label(
    model: DualEncoder, photos: Path, classes: Path
) -> None:
    (classes / "red" / "copy.png").write_bytes((photos / "red1.png").read_bytes())
    sure = make_sure(ZeroShotClassifier(model, NAMES), load_data(classes), None)
    data = load_data(photos)
    asking = Asking(data, sure)
    known = [at for at in range(18) if at not in asking.rows]
    assert [data[at].id for at in known] == ["red1.png"]
    assert asking._reasons[known[0]] == LEARNED_FROM


def test_files_whose_names_are_no_text(sure: Sure) -> None:
    odd = Sample("odd", Path("caf\udce9.png"))
    asking = Asking(Dataset("two", [odd, Sample("b", square("red"))]), sure)
    assert (asking.rows, asking._reasons) == ([1], [NO_TEXT, ""])


def test_labels_that_spell_none(model: DualEncoder, photos: Path) -> None:
    odd = make_sure(ZeroShotClassifier(model, ["red", "None"]), None, None)
    with pytest.raises(ConfigError, match="'None' would be read as no label"):
        Asking(load_data(photos), odd)


def test_nothing_sure_and_too_much_unreadable(sure: Sure, photos: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    asking = Asking(data, sure)
    guesses = guess(sure.classifier, data)
    with pytest.raises(DataError, match=r"18 confidence below 1.*the highest confidence is 0\."):
        asking.write(tmp_path / "out", guesses, Rule(min_confidence=1.0))
    some = replace(data, rejects=tuple(Reject(str(n), "gone") for n in range(3)))
    with pytest.raises(RejectedError, match="3 gone, of 21 met"):
        Asking(some, sure).write(tmp_path / "out", guesses, Rule())
    assert not (tmp_path / "out").exists()
    told = Asking(some, sure).write(tmp_path / "out", guesses, Rule(), max_rejected=0.2)
    assert told.left_out == {"gone": 3}
    assert told.rows == 21


def test_unread_images_keep_their_reason(sure: Sure, photos: Path, tmp_path: Path) -> None:
    data = load_data(photos)
    plain = guess(sure.classifier, data)
    nan = np.where(np.arange(18) == 4, np.nan, plain.confidence)
    broken = Guesses(plain.classes, plain.first, nan, plain.second, nan, plain.other, {4: "broken"})
    told = Asking(data, sure).write(tmp_path / "out", broken, Rule())
    assert told.left_out == {"broken": 1}
