from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.errors import DataError
from clipkit.evaluate import Retrieval
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample
from tests.conftest import square


class Fixed:
    """An encoder that gives the features it was made with."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor) -> None:
        self.image_features, self.text_features = images, texts

    def images(self, model: DualEncoder, data: Dataset) -> tuple[torch.Tensor, list[int]]:
        return self.image_features, list(range(len(data)))

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> torch.Tensor:
        return self.text_features[: len(texts)]


def test_perfect_features_score_one(model: DualEncoder) -> None:
    data = Dataset("d", [Sample(str(i), None, (f"text {i}",)) for i in range(12)])
    scores = Retrieval(data=data)(model, Fixed(torch.eye(12), torch.eye(12)))
    assert set(scores.values()) == {1.0}
    rolled = torch.eye(12).roll(1, 0)
    wrong = Retrieval(data=data)(model, Fixed(torch.eye(12), rolled))
    assert wrong["text_to_image_r1"] == wrong["image_to_text_r1"] == 0.0


def test_several_captions_any_of_which_answers(model: DualEncoder) -> None:
    data = Dataset("d", [Sample("0", None, ("one", "two")), Sample("1", None, ("three",))])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.9]])
    scores = Retrieval(data=data, ks=(1,))(model, Fixed(torch.eye(2), texts))
    assert scores["image_to_text_r1"] == 0.5  # image 1 is nearer to "two" than to "three"
    assert scores["text_to_image_r1"] == pytest.approx(2 / 3)


def test_equal_captions_answer_one_another(model: DualEncoder) -> None:
    rows = [Sample("0", None, ("A  Flag",)), Sample("1", None, ("a flag",))]
    crossed = Fixed(torch.eye(2), torch.eye(2).roll(1, 0))
    scores = Retrieval(data=Dataset("d", rows), ks=(1,))(model, crossed)
    assert scores["text_to_image_r1"] == scores["image_to_text_r1"] == 1.0


def test_copies_of_a_picture_answer_one_another(model: DualEncoder) -> None:
    picture, other = square("red"), square("blue")
    rows = [
        Sample("0", picture, ("a flag",)),
        Sample("1", picture.copy(), ("a banner",)),
        Sample("2", other, ("the sea",)),
    ]
    crossed = Fixed(torch.eye(3), torch.eye(3)[[1, 0, 2]])
    scores = Retrieval(data=Dataset("d", rows), ks=(1,))(model, crossed)
    assert scores["text_to_image_r1"] == scores["image_to_text_r1"] == 1.0
    wrong = Fixed(torch.eye(3), torch.eye(3)[[2, 1, 0]])
    scores = Retrieval(data=Dataset("d", rows), ks=(1,))(model, wrong)
    assert scores["text_to_image_r1"] == scores["image_to_text_r1"] == pytest.approx(1 / 3)


def test_on_pictures_and_without_captions(model: DualEncoder, corrupt: Path, classes: Path) -> None:
    scores = Retrieval(data=load_data(corrupt))(model)
    assert 0 <= scores["mean_recall"] <= 1
    with pytest.raises(DataError, match="captions"):
        Retrieval(data=load_data(classes))(model)
