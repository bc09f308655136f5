"""Frozen towers are encoded once: what they give is kept in memory and on disk.

A frozen tower without augmentation gives the same features each epoch, run and evaluation, so only
the projections are computed again (locked-image tuning, https://arxiv.org/abs/2111.07991).
Files are keyed by content: the tower's weights, the preprocessing and the data's bytes.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from clipkit.data.dataset import Dataset
from clipkit.encode import encode_images, encode_texts
from clipkit.errors import DataError
from clipkit.evaluate.encoder import DirectEncoder, check_rejects
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.packages import cache_folder, replace_file
from clipkit.types import PartProgress, Reject

CHUNK = 4096


def frozen(tower: nn.Module) -> bool:
    """Say whether nothing in a tower trains."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


class FeatureCache:
    """Features of frozen towers; towers that train are encoded anew each time.

    Args:
        folder: where the files go; `$CLIPKIT_CACHE/features` (or `~/.cache/clipkit/features`)
            when `None`.
        report: told how far the encoding is.
        max_rejected: the largest share of an evaluated data set's rows that may be unusable.

    Attributes:
        rejects: images that could not be read, over all data sets encoded so far.
    """

    def __init__(
        self,
        folder: Path | None = None,
        report: PartProgress | None = None,
        *,
        max_rejected: float = 0.01,
    ) -> None:
        """Make the folder."""
        self.folder = folder or cache_folder() / "features"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.report = report
        self.max_rejected = max_rejected
        self.rejects: dict[str, Reject] = {}
        self._memory: dict[str, tuple[Tensor, Tensor, dict[str, str]]] = {}
        self._digests: dict[int, tuple[nn.Module, str]] = {}

    def images(
        self, model: DualEncoder, data: Dataset
    ) -> tuple[Float[Tensor, "images dim"], list[int]]:
        """Return image features in the joint space, and the rows they belong to."""
        if not frozen(model.image_tower):
            direct = DirectEncoder(max_rejected=self.max_rejected)
            try:
                return direct.images(model, data)
            finally:
                self.rejects.update(direct.rejects)
        features, rows = self.image_tower(model, data)
        check_rejects(data, self.rejected(data), self.max_rejected)
        return _in_chunks(model.project_image, features, model), rows

    def rejected(self, data: Dataset) -> list[Reject]:
        """Return the rows of a data set whose images could not be read."""
        return [reject for reject in self.rejects.values() if reject.where == data.name]

    def texts(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return text features in the joint space."""
        if not frozen(model.text_tower):
            return DirectEncoder().texts(model, texts)
        return _in_chunks(model.project_text, self.text_tower(model, texts), model)

    def image_tower(
        self, model: DualEncoder, data: Dataset, *, mirrored: bool = False
    ) -> tuple[Float[Tensor, "images features"], list[int]]:
        """Return what the frozen image tower gives, before the projection, and the rows.

        Args:
            model: whose tower it is.
            data: whose images are encoded.
            mirrored: turn each image left to right.

        Raises:
            DataError: when no image can be read.
        """
        build = model.architecture.get("config")
        settings = json.dumps([model.preprocessing.settings(), mirrored, build], sort_keys=True)
        tower = model.image_tower
        key = self._key("image", tower, settings, data.fingerprint())

        def encode() -> tuple[Tensor, Tensor, dict[str, str]]:
            features, kept, errors = encode_images(
                model,
                (sample.image for sample in data),
                encode=(lambda images: tower(images.flip(-1))) if mirrored else tower,
                progress=self._progress(
                    f"{'mirrored ' * mirrored}images of {data.name}", len(data)
                ),
            )
            reasons = {str(row): reason for row, reason in errors}
            return features, torch.tensor(kept), reasons

        features, rows, reasons = self._get(key, encode)
        for row, reason in reasons.items():
            sample = data[int(row)]
            self.rejects[f"{data.name}/{sample.id}"] = Reject(sample.id, reason, data.name)
        if not len(rows):
            raise DataError(
                f"{data.name}: none of its {len(data)} rows has an image that can be read"
            )
        return features, rows.tolist()

    def text_tower(
        self, model: DualEncoder, texts: Sequence[str], *, what: str = "captions"
    ) -> Float[Tensor, "texts features"]:
        """Return what the frozen text tower gives, before the projection.

        Args:
            model: whose tower it is.
            texts: what is encoded.
            what: names the texts in reports.
        """
        digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
        build = [model.tokenizer.identity(), model.architecture.get("config")]
        settings = json.dumps([model.context_length, model.long_texts, build], sort_keys=True)
        key = self._key("text", model.text_tower, settings, digest)

        def encode() -> tuple[Tensor, Tensor, dict[str, str]]:
            progress = self._progress(what, len(texts))
            features = encode_texts(
                model, texts, encode=model.text_tower_features, progress=progress
            )
            return features, torch.arange(len(texts)), {}

        return self._get(key, encode)[0]

    def _key(self, kind: str, tower: nn.Module, settings: str, content: str) -> str:
        """Return the name of what is cached."""
        if id(tower) not in self._digests:
            self._digests[id(tower)] = (tower, state_digest(tower))
        parts = [kind, self._digests[id(tower)][1], settings, content]
        return f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"

    def _get(
        self, key: str, encode: Callable[[], tuple[Tensor, Tensor, dict[str, str]]]
    ) -> tuple[Tensor, Tensor, dict[str, str]]:
        """Look in memory, then on disk, then encode and keep."""
        if key not in self._memory:
            path = self.folder / f"{key}.safetensors"
            found = _read(path)
            if found is None:
                found = encode()
                _write(path, *found)
            self._memory[key] = found
        return self._memory[key]

    def _progress(self, what: str, total: int) -> Callable[[int, int | None], None] | None:
        """Bind what is being encoded into the report."""
        report = self.report
        if report is None:
            return None
        return lambda done, _: report(what, done, total)


@torch.no_grad()
def _in_chunks(project: Callable[[Tensor], Tensor], features: Tensor, model: DualEncoder) -> Tensor:
    """Project without holding more than a chunk on the device, as the model does in evaluation."""
    was_training = model.training
    model.eval()
    chunks = [project(chunk.to(model.device)).cpu() for chunk in features.split(CHUNK)]
    model.train(was_training)
    return torch.cat(chunks)


def _read(path: Path) -> tuple[Tensor, Tensor, dict[str, str]] | None:
    """Read a file of the cache; a damaged one counts as absent."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            reasons: dict[str, str] = json.loads((file.metadata() or {})["rejects"])
            return file.get_tensor("features"), file.get_tensor("rows"), reasons
    except (SafetensorError, KeyError, ValueError):
        return None


def _write(path: Path, features: Tensor, rows: Tensor, reasons: dict[str, str]) -> None:
    """Write a file of the cache; it appears whole."""
    tensors = {"features": features.contiguous(), "rows": rows}
    replace_file(path, save(tensors, metadata={"rejects": json.dumps(reasons)}))
