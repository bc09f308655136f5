"""The image-image term: gradients of micro-batches and processes against one graph; keys; heads."""

import copy
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clipkit.data.views import SimClrViews
from clipkit.errors import ConfigError
from clipkit.losses import MoCoLoss, NTXentLoss, SupConLoss
from clipkit.train.view_term import Views, ViewSettings, ViewTerm
from tests.processes import free_port
from tests.train.small_pairs import tiny_model
from tests.train.small_views import BATCH, CASES, by_parts, in_one_graph, term, view_batch, worker


def unit(*shape: int) -> Tensor:
    """Return random features."""
    return nn.functional.normalize(torch.randn(*shape), dim=-1)


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert any(name.startswith("views.") for name in found) or "log_logit_scale" in found
    for name, value in expected.items():
        # The scale's is a sum of terms of either sign, of which less is left than rounding goes by.
        length = max(float(value.norm()), 0.1 if name == "log_logit_scale" else 1e-4)
        assert float((found[name] - value).norm()) <= 1e-5 * length, name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("micro", [BATCH, 5, 3])
def test_micro_batches_give_the_gradient_of_one_graph(case: str, micro: int) -> None:
    loss, wanted = in_one_graph(case)
    total, found = by_parts(case, micro, rank=0, count=1)
    torch.testing.assert_close(total, loss, rtol=1e-5, atol=1e-6)
    assert_equal_gradients(found, wanted)


@pytest.mark.filterwarnings("ignore")
def test_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload([worker.__module__])
    start: Callable[..., object] = torch.multiprocessing.start_processes  # type: ignore[attr-defined]
    start(worker, (2, free_port(), str(tmp_path)), nprocs=2, start_method="forkserver")
    for case in CASES:
        loss, wanted = in_one_graph(case)
        for rank in (0, 1):
            total, found = torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True)
            torch.testing.assert_close(total, loss, rtol=1e-5, atol=1e-6)
            assert_equal_gradients(found, wanted)


def test_the_copy_follows_and_its_keys_are_queued() -> None:
    model = tiny_model("clip", 0.0)
    made = term(model, "moco")
    assert made.keys is not None
    before = copy.deepcopy(made.keys)
    with torch.no_grad():
        for parameter in model.image_tower.parameters():
            parameter.add_(0.1)
    images = torch.rand(BATCH, 3, 32, 32)
    keys = made.encode_keys(images)
    assert keys is not None
    assert not keys.requires_grad
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(BATCH))
    aim = made(model, view_batch(), unit(BATCH, 8), keys)
    assert aim.gradients.second is None
    assert isinstance(made.loss, MoCoLoss)
    assert not made.loss.queue.written[20:].any()
    made.after_step(model, aim)
    for name, value in made.keys["tower"].named_parameters():
        old, new = before["tower"].get_parameter(name), model.image_tower.get_parameter(name)
        torch.testing.assert_close(value, 0.9 * old + 0.1 * new)
    assert made.loss.queue.written.all()  # 20 there were, of 32
    torch.testing.assert_close(made.loss.queue.features[20:], keys)
    assert torch.equal(made.loss.queue.content_keys[20:], view_batch().image_keys)


def test_what_changes_is_in_the_state() -> None:
    model = tiny_model("clip", 0.0)
    names = set(term(model, "moco").state_dict())
    assert {"loss.queue.features", "keys.head.layers.1.weight", "head.layers.3.bias"} <= names


def test_without_a_head_the_joint_space_is_compared() -> None:
    model = tiny_model("clip", 0.0)
    assert term(model, "joint").head is None


def test_a_queue_without_a_copy_is_refused() -> None:
    views = Views(ViewSettings(), MoCoLoss(dim=16, queue_size=8), SimClrViews())
    with pytest.raises(ConfigError, match=r"views\.momentum: is null, and this loss needs one"):
        ViewTerm(tiny_model("clip", 0.0), views, duplicates="positive")


def test_a_head_on_a_frozen_tower_is_refused() -> None:
    model = tiny_model("clip", 0.0)
    model.image_tower.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"views\.head_hidden: beside a frozen image tower"):
        term(model, "alone")
    assert term(model, "joint").head is None


def test_weights_multiply_the_loss() -> None:
    model, features = (
        tiny_model("clip", 0.0),
        nn.functional.normalize(torch.randn(2, BATCH, 16), dim=2),
    )
    losses = []
    for weight in (1.0, 2.5):
        views = Views(ViewSettings(weight=weight), NTXentLoss(temperature=0.5), SimClrViews())
        aim = ViewTerm(model, views, duplicates="positive")(model, view_batch(), *features)
        losses.append((aim.loss, aim.gradients.first))
    torch.testing.assert_close(losses[1][0], 2.5 * losses[0][0])
    torch.testing.assert_close(losses[1][1], 2.5 * losses[0][1])


def test_labels_reach_the_losses_that_need_them() -> None:
    model, features = (
        tiny_model("clip", 0.0),
        nn.functional.normalize(torch.randn(2, BATCH, 16), dim=2),
    )
    views = Views(ViewSettings(), SupConLoss(temperature=0.5), SimClrViews())
    batch = view_batch()
    aim = ViewTerm(model, views, duplicates="positive")(model, batch, *features)
    expected = SupConLoss(temperature=0.5)(*features, torch.tensor(1.0), None, batch.labels)
    torch.testing.assert_close(aim.loss, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", 0.0), ("batch_size", 1), ("head_hidden", 0), ("head_dim", 0), ("momentum", 1.1)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError) as refused:
        ViewSettings(**{name: value})  # type: ignore[arg-type]
    assert refused.value.problems[0].startswith(f"views.{name}: {value}")


def test_a_row_without_numbers_is_named() -> None:
    model, features = (
        tiny_model("clip", 0.0),
        nn.functional.normalize(torch.randn(2, BATCH, 16), dim=2),
    )
    views = Views(ViewSettings(), NTXentLoss(temperature=0.5), SimClrViews())
    features[1, 3] = float("nan")
    aim = ViewTerm(model, views, duplicates="positive")(model, view_batch(), *features)
    assert aim.spoilt_rows() == [103]
