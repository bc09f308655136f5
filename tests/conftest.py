"""Fixtures: a tiny model of two random towers, pictures, and a captioned folder."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 (the hook looks it up by name)

PARTS = "errors types packages launch locks signals components imagenet models data losses encode"
LATER = "convert classify embed evaluate train report recipe run"
# The command line is left out: typer checks it.
CHECKED = [f"clipkit.{part}" for part in f"{PARTS} {LATER}".split()]
install_import_hook(CHECKED, "tests.typecheck.typecheck")

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.paired_towers import TowersSpec, build_towers
from clipkit.models.tokenizers import TransformersTokenizer
from clipkit.types import Preprocessing

WORDS = (
    "a photo of the red green blue yellow black white square picture one good cat dog in".split()
)
COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 220, 20),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
}
TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "vocab_size": 5 + len(WORDS),
    "hidden_dropout_prob": 0.1,
}


@pytest.fixture(scope="session", autouse=True)
def cache() -> Iterator[Path]:
    """Keep what the tests cache away from the user's own; OpenMoji's pictures are shared by all."""
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        os.environ["CLIPKIT_CACHE"] = folder
        yield Path(folder)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    """A tokenizer of a few words."""
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    vocabulary = {word: at for at, word in enumerate(path.read_text().splitlines())}
    return BertTokenizerFast(vocab=vocabulary)


@pytest.fixture
def make_model(tokenizer: BertTokenizerFast) -> Callable[..., DualEncoder]:
    """Make tiny models: the same seed gives the same weights."""

    def make(seed: int = 0, projection: str = "linear", image: str = "test_resnet") -> DualEncoder:
        torch.manual_seed(seed)
        spec = TowersSpec(image, dict(TEXT), dim=16, projection=projection, hidden=24)  # type: ignore[arg-type]
        preprocessing = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return build_towers(
            spec,
            tokenizer=TransformersTokenizer(tokenizer, 16),
            preprocessing=preprocessing,
            name="tiny",
        ).eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., DualEncoder]) -> DualEncoder:
    """A tiny model with random weights."""
    return make_model()


def square(colour: str, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Draw a noisy picture of one colour."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-10, 11, (size[1], size[0], 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 18 pictures, three of each colour, captions beside them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        for number in range(3):
            square(colour, number).save(folder / f"{colour}{number}.png")
            (folder / f"{colour}{number}.txt").write_text(f"a photo of a {colour} square\n")
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder with a sub-folder for each colour, two pictures in each."""
    folder = tmp_path / "classes"
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for number in range(2):
            square(colour, 10 + number).save(folder / colour / f"{number}.png")
    return folder


@pytest.fixture
def corrupt(photos: Path) -> Path:
    """The folder of pictures, one of which is no picture."""
    (photos / "red1.png").write_bytes(b"not a picture")
    return photos


@pytest.fixture(scope="session")
def starter_() -> DualEncoder:
    """The starter, loaded once; use `starter`."""
    from clipkit.models import load

    return load("starter")


@pytest.fixture
def starter(starter_: DualEncoder) -> Iterator[DualEncoder]:
    """The starter; a test must leave its weights as they are."""
    before = starter_.log_logit_scale.item()
    yield starter_
    assert starter_.log_logit_scale.item() == before
