"""The loss of a step and its gradients against loops, as the papers write them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipkit.losses import ClipLoss, DistillLoss, Duplicates, Positives, SigLipLoss
from clipkit.models.dual_encoder import DualEncoder
from clipkit.train.batches import PairBatch
from clipkit.train.objective import Aim, Objective
from clipkit.train.teacher import Teacher

IMAGE_KEYS = torch.tensor([5, 6, 5, 7])
TEXT_KEYS = torch.tensor([0, 1, 2, 1])
ROWS = torch.tensor([40, 10, 30, 20])
BATCH = PairBatch(torch.zeros(4, 3), torch.zeros(4, 3), ROWS, None, IMAGE_KEYS, TEXT_KEYS)


def features(seed: int, dim: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, 4, dim, generator=generator)
    images, texts = nn.functional.normalize(both, dim=2)
    return images, texts


def alike(i: int, j: int) -> bool:
    return bool(IMAGE_KEYS[i] == IMAGE_KEYS[j] or TEXT_KEYS[i] == TEXT_KEYS[j])


def softmax_by_hand(images: Tensor, texts: Tensor, scale: Tensor, how: str) -> Tensor:
    """Return CLIP's loss, term by term."""
    n, total = len(images), torch.zeros(())
    for a, b in ((images, texts), (texts, images)):
        for i in range(n):
            logits = {
                j: scale * (a[i] @ b[j])
                for j in range(n)
                if j == i or how != "mask" or not alike(i, j)
            }
            positives = [j for j in logits if j == i or (how == "positive" and alike(i, j))]
            norm = torch.stack(list(logits.values())).logsumexp(0)
            terms = torch.stack([norm - logits[j] for j in positives])
            total = total + terms.mean() / (2 * n)
    return total


def distilled_by_hand(
    images: Tensor, texts: Tensor, scale: Tensor, taught: tuple[Tensor, Tensor], tau: float
) -> Tensor:
    """Return the cross-entropy of the student's softmaxes with the teacher's, term by term."""
    n, total = len(images), torch.zeros(())
    sides = (((images, texts), taught), ((texts, images), taught[::-1]))
    for (a, b), (c, d) in sides:
        for i in range(n):
            target = torch.stack([tau * (c[i] @ d[j]) for j in range(n)]).softmax(0)
            mine = torch.stack([scale * (a[i] @ b[j]) for j in range(n)]).log_softmax(0)
            total = total - (target * mine).sum() / (2 * n)
    return total


def check(model: DualEncoder, aim: Aim, given: tuple[Tensor, Tensor], by_hand: Any) -> None:
    """Compare the loss and its gradients with what automatic differentiation makes of a loop."""
    leaves = [some.clone().requires_grad_() for some in (*given, model.logit_scale.detach())]
    expected = by_hand(*leaves)
    wanted = torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(aim.loss, expected.detach())
    found = (aim.gradients.image_features, aim.gradients.text_features, aim.gradients.logit_scale)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["positive", "mask", "ignore"])
def test_the_loss_of_pairs(model: DualEncoder, how: Duplicates) -> None:
    given = features(1)
    aim = Objective(ClipLoss(), duplicates=how)(model, BATCH, *given, signal=9)
    check(model, aim, given, lambda a, b, scale: softmax_by_hand(a, b, scale, how))
    assert aim.loss == aim.pair_loss
    assert aim.gradients.logit_bias is None
    assert aim.rows.tolist() == ROWS.tolist()
    assert aim.gathered.signal == 9
    assert aim.positives.duplicates == how
    assert not any(some.requires_grad for some in given)


def test_nothing_reaches_the_model_by_itself(model: DualEncoder) -> None:
    given = tuple(some.requires_grad_() for some in features(1))
    Objective(ClipLoss())(model, BATCH, *given)
    assert all(some.grad is None for some in given)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_bias_has_its_gradient(make_model: Callable[..., DualEncoder]) -> None:
    model = make_model()
    model.use_similarity("sigmoid")
    assert model.logit_bias is not None
    images, texts = features(2)
    aim = Objective(SigLipLoss(), duplicates="ignore")(model, BATCH, images, texts)
    scale, bias = (float(some.detach()) for some in (model.logit_scale, model.logit_bias))
    of_bias, of_scale, loss = 0.0, 0.0, 0.0
    for i in range(4):
        for j in range(4):
            z = 1.0 if i == j else -1.0
            cosine = float(images[i] @ texts[j])
            inner = torch.tensor(z * (scale * cosine + bias), dtype=torch.float64)
            loss -= float(nn.functional.logsigmoid(inner)) / 4
            of_bias -= z * float(torch.sigmoid(-inner)) / 4
            of_scale -= z * cosine * float(torch.sigmoid(-inner)) / 4
    assert float(aim.loss) == pytest.approx(loss, rel=1e-5)
    assert aim.gradients.logit_bias is not None
    assert float(aim.gradients.logit_bias) == pytest.approx(of_bias, rel=1e-4)
    assert float(aim.gradients.logit_scale) == pytest.approx(of_scale, rel=1e-4)
    assert model.logit_bias.grad is None


class Outside(nn.Module):
    """Someone's own loss, which knows nothing of shares and has no use for scale or bias."""

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        positives: Positives,
    ) -> Tensor:
        assert positives.pairs(range(len(image_features)))[0].numel() > len(image_features)
        return (image_features - text_features).square().sum()


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_a_loss_from_outside(make_model: Callable[..., DualEncoder], similarity: Any) -> None:
    model = make_model()
    model.use_similarity(similarity)
    images, texts = features(3)
    aim = Objective(Outside())(model, BATCH, images, texts)
    torch.testing.assert_close(aim.gradients.image_features, 2 * (images - texts))
    torch.testing.assert_close(aim.gradients.text_features, 2 * (texts - images))
    assert aim.gradients.logit_scale == 0
    bias = aim.gradients.logit_bias
    assert bias is None if similarity == "softmax" else bias == 0


class Told(Teacher):
    """A teacher that is told what to say."""

    def __init__(self, taught: tuple[Tensor, Tensor], weight: float, scale: float) -> None:
        self.taught, self.loss = taught, DistillLoss()
        self.weight, self.logit_scale = weight, torch.tensor(scale)

    def features(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        return self.taught


def test_a_teacher_beside_it(model: DualEncoder) -> None:
    given, taught = features(4), features(5, dim=24)
    objective = Objective(ClipLoss(), duplicates="mask", teacher=Told(taught, 0.3, 20.0))
    aim = objective(model, BATCH, *given)

    def by_hand(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        own = softmax_by_hand(images, texts, scale, "mask")
        return own + 0.3 * distilled_by_hand(images, texts, scale, taught, 20.0)

    check(model, aim, given, by_hand)
    own = softmax_by_hand(*given, model.logit_scale.detach(), "mask")
    torch.testing.assert_close(aim.pair_loss, own)
    assert len(aim.gathered.features) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_spoilt_rows_are_those_of_the_data(model: DualEncoder, value: float) -> None:
    images, texts = features(6)
    objective = Objective(ClipLoss())
    assert objective(model, BATCH, images, texts).spoilt_rows() == []
    images[0, 3] = value
    texts[2, 1] = value
    texts[0, 0] = value
    assert objective(model, BATCH, images, texts).spoilt_rows() == [30, 40]
