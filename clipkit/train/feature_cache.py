"""Frozen towers are encoded once: what they give is kept in memory and on disk.

A frozen tower without augmentation gives the same features each epoch, run and evaluation, so only
the projections are computed again (locked-image tuning, https://arxiv.org/abs/2111.07991).
On disk they are embedding stores, named by content: the tower's weights, the preprocessing and the
data's bytes. An encoding that is killed goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.data.dataset import Dataset
from clipkit.data.rejects import Rejects
from clipkit.embed.fill import fill_store
from clipkit.embed.rows import build_schema
from clipkit.embed.store import EmbeddingStore, StoreInfo
from clipkit.embed.stream import Encoder
from clipkit.encode import inference
from clipkit.errors import DataError, RejectedError, StoreError
from clipkit.evaluate.encoder import DirectEncoder, check_rejects
from clipkit.locks import FileLock
from clipkit.models.dual_encoder import DualEncoder, state_digest
from clipkit.packages import cache_folder
from clipkit.types import PartProgress, Progress, Reject, Sample

CHUNK = 4096
SHARD = 2048
"""Rows in a file."""


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
        self._memory: dict[str, tuple[Tensor, dict[int, str]]] = {}
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

        encode = (lambda images: tower(images.flip(-1))) if mirrored else tower
        size = model.preprocessing.size
        blank = torch.zeros(1, 3, size, size, device=model.device)
        what = f"{'mirrored ' * mirrored}images of {data.name}"
        encoder = Encoder(model, images=encode)
        try:
            features, bad = self._get(
                key, encoder, data.samples, "images", what, lambda: tower(blank)
            )
        except RejectedError:
            raise DataError(
                f"{data.name}: none of its {len(data)} rows has an image that can be read"
            ) from None
        for row, reason in bad.items():
            sample = data[row]
            self.rejects[f"{data.name}/{sample.id}"] = Reject(sample.id, reason, data.name)
        return features, [row for row in range(len(data)) if row not in bad]

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

        def probe() -> Tensor:
            tokens = {name: value.to(model.device) for name, value in model.tokenize(["a"]).items()}
            return model.text_tower_features(tokens)

        samples = [Sample(str(at), None, (text,)) for at, text in enumerate(texts)]
        encoder = Encoder(model, texts=model.text_tower_features)
        return self._get(key, encoder, samples, "captions", what, probe)[0]

    def _key(self, kind: str, tower: nn.Module, settings: str, content: str) -> str:
        """Return the name of what is cached."""
        if id(tower) not in self._digests:
            self._digests[id(tower)] = (tower, state_digest(tower))
        parts = [kind, self._digests[id(tower)][1], settings, content]
        return f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"

    def _get(
        self,
        key: str,
        encoder: Encoder,
        samples: Sequence[Sample],
        kind: str,
        what: str,
        probe: Callable[[], Tensor],
    ) -> tuple[Float[Tensor, "rows features"], dict[int, str]]:
        """Look in memory, then on disk, then encode what is not there.

        Args:
            key: names what is kept.
            encoder: runs the tower.
            samples: what is encoded.
            kind: of them, "images" or "captions".
            what: names them in reports.
            probe: encodes anything, to see how wide features are.

        Returns:
            The features, and the rows that have none with the reason.
        """
        if key in self._memory:
            return self._memory[key]
        folder, model = self.folder / key, encoder.model
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # others that want it wait
            if not _whole(folder):
                with inference(model):
                    dim = probe().shape[1]
                info = StoreInfo(
                    model={"name": model.name, "fingerprint": key},
                    preprocessing=asdict(model.preprocessing),
                    data={"name": what, "fingerprint": key},
                    what=kind,
                    dim=dim,
                    dtype="float32",
                    shard_rows=SHARD,
                    input_rows=len(samples),
                    normalised=False,
                )
                schema = build_schema([], dim=dim, dtype=info.dtype)
                rejects, progress = Rejects(1.0), self._progress(what)
                fill_store(
                    folder, info, samples, schema, encoder, rejects=rejects, progress=progress
                )
            store = EmbeddingStore(folder)
        self._memory[key] = (torch.from_numpy(store.embeddings()), store.rejected_places())
        return self._memory[key]

    def _progress(self, what: str) -> Progress | None:
        """Bind what is being encoded into the report."""
        report = self.report
        if report is None:
            return None
        return lambda done, total: report(what, done, total)


@torch.no_grad()
def _in_chunks(project: Callable[[Tensor], Tensor], features: Tensor, model: DualEncoder) -> Tensor:
    """Project without holding more than a chunk on the device, as the model does in evaluation."""
    was_training = model.training
    model.eval()
    chunks = [project(chunk.to(model.device)).cpu() for chunk in features.split(CHUNK)]
    model.train(was_training)
    return torch.cat(chunks)


def _whole(folder: Path) -> bool:
    """Say whether a store is complete and as it was written; one that cannot be read is removed."""
    try:
        if StoreInfo.read(folder).complete:
            return not EmbeddingStore(folder).verify()
    except StoreError:
        shutil.rmtree(folder, ignore_errors=True)
    return False
