"""DualEncoder: two towers, two projections, one space. The model behind all three jobs."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipkit.errors import ModelError
from clipkit.models.tokenizers import Tokenizer, Tokens
from clipkit.types import Preprocessing

Similarity = Literal["softmax", "sigmoid"]
LongTexts = Literal["head", "pieces"]
Base = Literal["reference", "inside"]
Adapters = Literal["alone", "merged"]
BatchNorm = Literal["fixed", "train"]

MAX_LOGIT_SCALE = 100.0


class DualEncoder(nn.Module):
    """Images and text in one space (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

    Args:
        image_tower: images float32 [batch, 3, size, size] to features [batch, features].
        text_tower: tokens to features [batch, features]; its attribute `shortens`, true if there is
            none, says that padding changes nothing, so that texts need no more than their length.
        image_projection: image features to [batch, dim].
        text_projection: text features to [batch, dim].
        tokenizer: texts to tokens, cut at its `context_length`.
        preprocessing: how an RGB image becomes the tensor that `image_tower` sees.
        architecture: what `clipkit.load` needs to build the towers again (see `storage`).
        similarity: "softmax" for models trained with the symmetric softmax loss, "sigmoid" for
            those trained with the pairwise sigmoid loss (which also have a `logit_bias`).
        logit_scale: initial multiplier of the cosine, in [1, 100].
        long_texts: of a text with more than `context_length` tokens, "head" reads the beginning;
            "pieces" reads all of it, cut into pieces whose features are averaged, each weighted by
            its number of tokens.
        name: what `clipkit.load` takes to load this model again, where there is such a name.

    Attributes:
        batch_norm: what batch norms do in training, from the next call of `train` on. "fixed", as
            in evaluation: they normalise by their running statistics, which stay, while their
            weights train; so an image's features do not depend on its batch. "train": they
            normalise by the batch and keep running statistics, as torch has it. Not saved.
    """

    logit_bias_parameter: nn.Parameter | None

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: nn.Module,
        image_projection: nn.Module,
        text_projection: nn.Module,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        architecture: dict[str, Any],
        similarity: Similarity = "softmax",
        logit_scale: float = 1 / 0.07,
        long_texts: LongTexts = "head",
        name: str = "",
    ) -> None:
        """Keep the parts; `log_logit_scale` is the learned parameter."""
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_projection = image_projection
        self.text_projection = text_projection
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.register_parameter("logit_bias_parameter", None)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.architecture = architecture
        self.similarity: Similarity = "softmax"
        self.use_similarity(similarity)
        self.long_texts: LongTexts = long_texts
        self.name = name
        self.batch_norm: BatchNorm = "fixed"
        self.tower_digests: dict[str, str] = {}
        """What towers were in float32 that compute in bfloat16 now; see `precision`."""

    @property
    def dim(self) -> int:
        """Width of the joint embedding space."""
        return int(self.architecture.get("projection", self.architecture)["dim"])

    @property
    def context_length(self) -> int:
        """The most tokens of a text that are used, the special ones counted."""
        return self.tokenizer.context_length

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_logit_scale.device

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The multiplier of the cosine (after exp), with its gradient."""
        return self.log_logit_scale.exp()

    @property
    def logit_bias(self) -> Float[Tensor, ""] | None:
        """What is added to the scaled cosine; `None` for softmax models."""
        return self.logit_bias_parameter

    def use_similarity(self, similarity: Similarity) -> None:
        """Have the scores mean what a loss trains them to: a softmax's or a sigmoid's logits.

        A model that becomes "sigmoid" begins with the bias of the paper, -10
        (https://arxiv.org/abs/2303.15343), and keeps its scale; one that becomes "softmax" loses
        its bias. A model that is of the kind already stays as it is.
        """
        if similarity == "sigmoid" and self.logit_bias_parameter is None:
            bias = torch.full_like(self.log_logit_scale, -10.0)
            self.logit_bias_parameter = nn.Parameter(bias)
        if similarity == "softmax":
            self.logit_bias_parameter = None
        self.similarity = similarity

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim"]:
        """Return `image_features`: L2-normalised, float32."""
        return self.project_image(self.image_tower(images))

    def encode_text(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        """Return `text_features` of what `tokenize` gave: L2-normalised, float32."""
        return self.project_text(self.text_tower_features(tokens))

    def text_tower_features(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return what the text tower gives for each text, those of pieces averaged."""
        features: Tensor = self.text_tower(tokens)
        if "owner" not in tokens:
            return features
        features = features.float()  # autocast gives bfloat16
        owner = tokens["owner"]
        texts = int(owner[-1]) + 1  # the host waits for the device
        lengths = tokens["attention_mask"].sum(1, keepdim=True).to(features.dtype)
        total = features.new_zeros(texts, features.shape[1]).index_add(0, owner, features * lengths)
        return total / lengths.new_zeros(texts, 1).index_add(0, owner, lengths)

    def project_image(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch dim"]:
        """Project what the image tower gave into the joint space; L2-normalised, float32."""
        return project_features(self.image_projection, features)

    def project_text(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dim"]:
        """Project what the text tower gave into the joint space; L2-normalised, float32."""
        return project_features(self.text_projection, features)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Int[Tensor, "..."]]:
        """Tokenise, cut at `context_length`, on the CPU.

        Where the tower masks its padding or never looks ahead, to the longest text of the batch;
        a text's features do not depend on its neighbours either way.

        Returns:
            `input_ids` and `attention_mask` [batch, tokens]; where `long_texts` is "pieces",
            [pieces, tokens] and `owner` [pieces], the text that each piece is from, ascending.
        """
        if isinstance(texts, str):
            raise ModelError("tokenize takes a list of texts, not one string: write [text]")
        pieces = self.long_texts == "pieces"
        return self.tokenizer(list(texts), shorten=self.shortens_texts, pieces=pieces)

    @property
    def shortens_texts(self) -> bool:
        """Whether texts are padded to the longest of them only, not to the whole context."""
        return bool(getattr(self.text_tower, "shortens", True))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has before any is cut, the special ones counted."""
        return self.tokenizer.count(texts)

    def train(self, mode: bool = True) -> "DualEncoder":
        """Switch to training; what is frozen keeps its dropout and batch statistics off."""
        super().train(mode)
        if mode:
            rest_frozen(self)
            if self.batch_norm == "fixed":
                fix_batch_norms(self)
        return self

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the multiplier in [1, 100], as CLIP does; call it after each optimiser step.

        That of a sigmoid model has no upper bound: SigLIP's own are above 100.
        """
        most = math.log(MAX_LOGIT_SCALE) if self.similarity == "softmax" else None
        self.log_logit_scale.clamp_(0.0, most)

    def fingerprint(self) -> str:
        """Return "sha256:…" of everything that an embedding depends on.

        Weights, architecture, preprocessing and context length count; `name` does not, nor where
        the weights came from, nor that the towers compute in bfloat16.
        """
        digest = hashlib.sha256()
        settings: dict[str, Any] = {
            "preprocessing": self.preprocessing.settings(),
            "context_length": self.context_length,
            "similarity": self.similarity,
            **self.tokenizer.identity(),
        }
        if self.architecture["kind"] != "paired_towers":  # theirs are told by their weights
            settings["architecture"] = self.architecture.get("config")
        if "lora" in self.architecture:
            settings["lora"] = {key: self.architecture["lora"][key] for key in ("rank", "alpha")}
        if self.long_texts != "head":
            settings["long_texts"] = self.long_texts
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for part in self._digests():
            digest.update(part.encode())
        for scalar in (self.log_logit_scale, self.logit_bias_parameter):
            digest.update(b"" if scalar is None else scalar.detach().cpu().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def _digests(self) -> list[str]:
        """Return those of towers and projections; of towers in bfloat16, what they were."""
        names = ("image_tower", "text_tower", "image_projection", "text_projection")
        ours = [name for name in names if name not in self.tower_digests]
        made = zip(ours, state_digests(getattr(self, name) for name in ours), strict=True)
        found = self.tower_digests | dict(made)
        return [found[name] for name in names]

    def save(
        self,
        folder: str,
        *,
        training_data: Sequence[str] = (),
        base: Base = "reference",
        adapters: Adapters = "alone",
    ) -> None:
        """Write the self-describing folder that `clipkit.load` reads; see `storage.save_model`."""
        from clipkit.models.storage import save_model

        save_model(self, folder, training_data=training_data, base=base, adapters=adapters)


def project_features(
    projection: nn.Module, features: Float[Tensor, "batch features"]
) -> Float[Tensor, "batch dim"]:
    """Project in float32 and normalise, also where autocast has the towers compute in bfloat16."""
    with torch.autocast(features.device.type, enabled=False):
        projected: Tensor = projection(features.float())
        return nn.functional.normalize(projected.float(), dim=-1)


def fix_batch_norms(module: nn.Module) -> None:
    """Have batch norms use their running statistics and leave them as they are.

    They are told by having a `running_var`. What is inside them (an activation, say) stays as is.
    """
    for part in module.modules():
        if any(name == "running_var" for name, _ in part.named_buffers(recurse=False)):
            part.training = False


def rest_frozen(module: nn.Module) -> None:
    """Put the frozen parts of a module that trains into evaluation mode.

    What has parameters rests when none of them trains. What has none (dropout, say) rests in a
    module that trains in part, as long as nothing that trains was registered there before it.
    """
    trains = [parameter.requires_grad for parameter in module.parameters()]
    if all(trains):
        return
    if not any(trains):
        module.eval()
        return
    begun = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    for child in module.children():
        if not any(True for _ in child.parameters()):
            child.train(begun)
            continue
        rest_frozen(child)
        begun = begun or any(parameter.requires_grad for parameter in child.parameters())


def state_digests(states: Iterable[nn.Module]) -> list[str]:
    """Return the `state_digest` of each; they are hashed side by side."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(state_digest, states))


def state_digest(state: nn.Module | Mapping[str, Tensor]) -> str:
    """Return the sha256 of names, shapes, dtypes and values: of a module's state, or of tensors."""
    digest = hashlib.sha256()
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    for name, value in tensors.items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
