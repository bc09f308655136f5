from pathlib import Path

import pytest
import torch

from clipkit.data import Dataset, load_data
from clipkit.errors import DataError
from clipkit.evaluate import Retrieval
from clipkit.evaluate.ranks import match_ranks_both_ways
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample
from tests.conftest import square
from tests.evaluate.fixed import Fixed


def test_perfect_features_score_one(model: DualEncoder) -> None:
    data = Dataset("d", [Sample(str(i), None, (f"text {i}",)) for i in range(12)])
    scores = Retrieval(data=data)(model, Fixed(torch.eye(12), torch.eye(12)))
    assert set(scores.values()) == {1.0}  # the ranks too: they are told from 1
    assert len(scores) == 7 * 3 + 4
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


def test_a_perfect_model_scores_one_with_duplicates_and_several_captions(
    model: DualEncoder,
) -> None:
    """Seven pictures, four rows of each with captions of their own; two share a caption."""
    pictures = [square("red", seed=at) for at in range(7)]
    rows, towards = [], []
    for at in range(28):
        group = at % 7
        captions = [f"caption {at} {more}" for more in range(1 + at % 3)]
        towards += [group] * len(captions)
        if at in (0, 1):
            captions.append(("The Flag", "the  flag")[at])
            towards.append(0)  # a picture that the second of them has too, if not its own
        rows.append(Sample(str(at), pictures[group].copy(), tuple(captions)))
    images = torch.eye(7).repeat(4, 1)
    encoder = Fixed(images, torch.eye(7)[towards])
    scores = Retrieval(data=Dataset("d", rows))(model, encoder)
    assert set(scores.values()) == {1.0}
    by_place = match_ranks_both_ways(
        encoder.text_features,
        images,
        torch.tensor([(c, r) for c, r in enumerate(_rows_of_captions(rows))]),
    )
    assert float((by_place[0] < 1).double().mean()) < 0.1  # what recall by position would say


def _rows_of_captions(rows: list[Sample]) -> list[int]:
    return [at for at, row in enumerate(rows) for _ in row.captions]


def test_a_random_model_scores_chance_within_its_interval(model: DualEncoder) -> None:
    """Chance at k of n pictures is k / n; with five captions each, that any is among k of 5 n."""
    torch.manual_seed(5)
    count, each = 400, 5
    rows = [Sample(str(at), None, tuple(f"{at} {c}" for c in range(each))) for at in range(count)]
    images = torch.nn.functional.normalize(torch.randn(count, 64), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(count * each, 64), dim=1)
    scores = Retrieval(data=Dataset("d", rows), ks=(10, 40))(model, Fixed(images, texts))
    for k in (10, 40):
        low, high = scores[f"text_to_image_r{k}_low"], scores[f"text_to_image_r{k}_high"]
        assert low <= k / count <= high
        assert high - low < 0.06
        texts_in_all = count * each
        none = 1.0
        for place in range(k):
            none *= (texts_in_all - each - place) / (texts_in_all - place)
        assert scores[f"image_to_text_r{k}_low"] <= 1 - none <= scores[f"image_to_text_r{k}_high"]
    assert scores["text_to_image_mean_rank"] == pytest.approx((count + 1) / 2, rel=0.05)
    assert scores["mean_recall_low"] < scores["mean_recall"] < scores["mean_recall_high"]


def test_the_captions_of_a_picture_are_drawn_together(model: DualEncoder) -> None:
    """Five copies of each query tell no more than one does: the interval stays as wide."""
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(60, 16), dim=1)
    texts = torch.nn.functional.normalize(images + 0.3 * torch.randn(60, 16), dim=1)
    one = Dataset("d", [Sample(str(at), None, (f"{at}",)) for at in range(60)])
    five = Dataset(
        "d", [Sample(str(at), None, tuple(f"{at} {c}" for c in range(5))) for at in range(60)]
    )
    single = Retrieval(data=one)(model, Fixed(images, texts))
    many = Retrieval(data=five)(model, Fixed(images, texts.repeat_interleave(5, 0)))
    for name in ("text_to_image_r1", "text_to_image_r1_low", "text_to_image_r1_high"):
        assert many[name] == pytest.approx(single[name], abs=0.03)
    assert 0.2 < single["text_to_image_r1"] < 0.95
