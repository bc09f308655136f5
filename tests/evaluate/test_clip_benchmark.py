"""The same figures as CLIP_benchmark gives for the same model, pictures, captions and prompts.

It differs on purpose in one point: rows with the same picture or caption answer one another here,
and there each of them is a mistake of the other. So a perfect model scores 1 here, and there not.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from clipkit.data import Dataset
from clipkit.evaluate import Retrieval, ZeroShot
from clipkit.models import load
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample
from tests.conftest import square
from tests.evaluate.fixed import Fixed
from tests.models.open_clip_folders import make_folder

pytestmark = pytest.mark.slow

TEMPLATES = ("a photo of a {}.", "the {} in the picture", "one good {}")
CLASSES = ("cat", "dog", "red square", "woman", "space suit", "cup", "spoon", "orange")
PICTURES = 96


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the package is installed in, at the head of the path."""
    folder = tmp_path_factory.mktemp("peer")
    words = ["install", "--quiet", "--no-deps", "--target", str(folder), "clip_benchmark"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    if done.returncode and "No matching distribution" not in done.stderr:
        pytest.fail(done.stderr)
    if done.returncode:
        pytest.skip(f"pip cannot reach an index that has clip_benchmark: {done.stderr[-200:]}")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def metrics(peer: Path, name: str) -> ModuleType:
    module = importlib.import_module(f"clip_benchmark.metrics.{name}")
    assert str(module.__file__).startswith(str(peer))
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of open_clip with random weights."""
    return make_folder("vit", tmp_path_factory.mktemp("open_clip") / "vit")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of coarse coloured patches, each unlike the others."""
    rng = np.random.default_rng(0)
    paths = []
    for at in range(PICTURES):
        patches = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        path = tmp_path_factory.mktemp("pictures") / f"{at}.png"
        Image.fromarray(patches).resize((60, 52), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


class Rows(torch.utils.data.Dataset[Any]):
    """Pictures as open_clip prepares them, each with its label or its captions."""

    def __init__(self, paths: Sequence[Path], about: Sequence[Any], transform: Any) -> None:
        self.paths, self.about, self.transform = paths, about, transform
        self.classes = list(CLASSES)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[Tensor, Any]:
        return self.transform(Image.open(self.paths[at])), self.about[at]


def theirs(folder: Path) -> tuple[Any, Any, Any]:
    """Return open_clip's model, transform and tokenizer."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


def test_zero_shot_classification(
    peer: Path, folder: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = metrics(peer, "zeroshot_classification")
    # It calls float() on an array of one number, which NumPy no longer allows.
    monkeypatch.setattr(module, "float", lambda one: float(np.asarray(one).item()), raising=False)
    labels = np.random.default_rng(1).integers(0, len(CLASSES), PICTURES).tolist()
    model, transform, tokenizer = theirs(folder)
    expected = module.evaluate(
        model,
        DataLoader(Rows(pictures, labels, transform), batch_size=16),
        tokenizer,
        list(CLASSES),
        [template.replace("{}", "{c}") for template in TEMPLATES],
        "cpu",
        amp=False,
    )
    rows = [
        Sample(path.name, path, label=CLASSES[label])
        for path, label in zip(pictures, labels, strict=True)
    ]
    data = Dataset("pictures", rows, CLASSES)
    found = ZeroShot(data=data, templates=TEMPLATES)(load(f"open_clip:{folder}"))
    assert 0 < expected["acc1"] < expected["acc5"] < 1
    names = {"acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_class_recall"}
    for name, ours in names.items():
        assert found[ours] == pytest.approx(expected[name], abs=1e-4), name


@pytest.mark.parametrize("most", [1, 5])
def test_retrieval_with_one_caption_and_with_several(
    peer: Path, folder: Path, pictures: list[Path], most: int
) -> None:
    rng = np.random.default_rng(2)
    words = [*CLASSES, "photo", "face", "on", "with", "in", "the", "a", "an", "of"]
    captions: list[list[str]] = [
        [f"{at} {number} {' '.join(rng.choice(words, 6))}" for number in range(1 + at % most)]
        for at in range(PICTURES)
    ]
    model, transform, tokenizer = theirs(folder)
    expected = metrics(peer, "zeroshot_retrieval").evaluate(
        model,
        DataLoader(
            Rows(pictures, captions, transform),
            batch_size=16,
            collate_fn=lambda rows: (torch.stack([x for x, _ in rows]), [y for _, y in rows]),
        ),
        tokenizer,
        "cpu",
        amp=False,
        recall_k_list=[1, 5, 10],
    )
    rows = [
        Sample(path.name, path, tuple(texts))
        for path, texts in zip(pictures, captions, strict=True)
    ]
    found = Retrieval(data=Dataset("pictures", rows))(load(f"open_clip:{folder}"))
    assert 0 < expected["image_retrieval_recall@10"] < 1
    for k in (1, 5, 10):
        theirs_there = expected[f"image_retrieval_recall@{k}"]
        theirs_back = expected[f"text_retrieval_recall@{k}"]
        assert found[f"text_to_image_r{k}"] == pytest.approx(theirs_there, abs=1e-4)
        assert found[f"image_to_text_r{k}"] == pytest.approx(theirs_back, abs=1e-4)


class Directions:
    """A perfect model: a picture and its captions have one direction, told by their first value."""

    def encode_image(self, images: Tensor) -> Tensor:
        return torch.eye(8)[images[:, 0].long()]

    def encode_text(self, tokens: Tensor) -> Tensor:
        return torch.eye(8)[tokens]


def test_a_duplicate_is_a_mistake_there_and_none_here(peer: Path, model: DualEncoder) -> None:
    """One pair in four has a copy."""
    towards = [0, 1, 2, 3, 4, 5, 6, 6]
    expected = metrics(peer, "zeroshot_retrieval").evaluate(
        Directions(),
        [(torch.tensor(towards)[:, None], [[str(one)] for one in towards])],
        lambda texts: torch.tensor([int(text) for text in texts]),
        "cpu",
        amp=False,
        recall_k_list=[1],
    )
    assert expected["image_retrieval_recall@1"] == 7 / 8
    rows = [Sample(str(at), square("red", one), (str(one),)) for at, one in enumerate(towards)]
    features = torch.eye(8)[towards]
    found = Retrieval(data=Dataset("d", rows), ks=(1,))(model, Fixed(features, features))
    assert found["text_to_image_r1"] == found["image_to_text_r1"] == 1
