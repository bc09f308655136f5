"""The pairs of an image and a caption that fit each other best: filtering by CLIP score.

Schuhmann et al. 2021, arXiv 2111.02114, and Gadre et al. 2023, DataComp, arXiv 2304.14108: the
score of a pair is the cosine of its two embeddings, and what scores lowest is left out of training.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from clipkit.data.manifest import write_manifest
from clipkit.data.rejects import Rejects
from clipkit.embed.found_rows import write_listing
from clipkit.embed.pairs import Pairs
from clipkit.embed.search import exact_cosines
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.tables import check_empty
from clipkit.embed.vectors import stored_matrix
from clipkit.errors import ConfigError, StoreError
from clipkit.types import Progress, Reject

SCORES = "scores.parquet"
TABLE = "table.jsonl"
MANIFEST = "manifest.yaml"

_COLUMNS = ["id", "kind", "embedding", "caption", "label", "path"]


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter kept.

    Attributes:
        pairs: that were scored.
        kept: of these.
        images: that have a pair which was kept.
        threshold: the lowest score that was kept.
        manifest: what `load_data` takes; `None` where the store does not tell where its images are.
        unpaired: images without a caption, and captions without an image.
    """

    pairs: int
    kept: int
    images: int
    threshold: float
    manifest: Path | None
    unpaired: list[Reject]


def score_pairs(
    store: EmbeddingStore, rejects: Rejects | None = None
) -> Iterator[tuple[pa.Table, pa.Table, Float[np.ndarray, " pairs"]]]:
    """Yield the pairs of a store, shard by shard: rows of images, of their captions, and cosines.

    Args:
        store: of images and captions.
        rejects: gets the rows that have no partner.

    Raises:
        StoreError: the store is not of both.
    """
    if store.info.what != "both":
        raise StoreError(
            f"{store.path} is of {store.info.what}: scores need a store of images and captions"
            " (clipkit embed --what both)"
        )
    pairs = Pairs(Rejects() if rejects is None else rejects)
    for table in store.iter_shards(_COLUMNS):
        both = pairs.of(table)
        images, texts = (stored_matrix(both[kind]["embedding"]) for kind in ("image", "text"))
        yield both["image"], both["text"], exact_cosines(images, texts)
    pairs.close()


def filter_pairs(
    store: EmbeddingStore,
    out: str | Path,
    *,
    keep: float | None = None,
    min_score: float | None = None,
    progress: Progress | None = None,
) -> Filtered:
    """Write the best pairs of a store as data to be trained on.

    `scores.parquet` has every pair with its score and whether it was kept, `table.jsonl` the images
    that keep a caption, with those captions, and `manifest.yaml` is what `load_data` takes.

    Args:
        store: of images and captions.
        out: a folder, absent or empty.
        keep: share of the pairs to keep, the best; of equal ones the earlier.
        min_score: or the least cosine to keep.
        progress: told how many rows are done, and of how many; there are two passes.

    Raises:
        ConfigError: neither or both of `keep` and `min_score` are given, or out of range.
        StoreError: the store is not of both, no pair is kept, or the folder holds something.
    """
    _check_options(keep, min_score)
    folder = Path(out)
    check_empty(folder)
    unpaired = Rejects()
    parts = [np.zeros(0)]
    for _, _, scores in score_pairs(store, unpaired):
        parts.append(scores)
        if progress is not None:
            progress(sum(map(len, parts)), None)
    scores = np.concatenate(parts)
    if not len(scores):
        raise StoreError(f"{store.path} has no pair of an image and a caption")
    chosen = _choose(scores, keep, min_score)
    if not chosen.any():
        raise StoreError(f"no pair has a score of {min_score:g}; the best has {scores.max():.3f}")
    folder.mkdir(parents=True, exist_ok=True)
    write_listing(folder / SCORES, _listed(store, chosen))
    manifest, images = _write_table(store, folder, chosen, float(scores[chosen].min()))
    return Filtered(
        len(scores), int(chosen.sum()), images, float(scores[chosen].min()), manifest, unpaired.rows
    )


def _check_options(keep: float | None, min_score: float | None) -> None:
    if (keep is None) == (min_score is None):
        raise ConfigError("give either the share of the pairs to keep, or the least score")
    if keep is not None and not 0 < keep <= 1:
        raise ConfigError(f"keep must be a share above 0 and at most 1, not {keep}")
    if min_score is not None and not -1 <= min_score <= 1:
        raise ConfigError(f"min_score must be a cosine between -1 and 1, not {min_score}")


def _choose(
    scores: Float[np.ndarray, " pairs"], keep: float | None, min_score: float | None
) -> Bool[np.ndarray, " pairs"]:
    if keep is None:
        return scores >= min_score
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[: max(1, int(keep * len(scores)))]] = True
    return chosen


def _listed(store: EmbeddingStore, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    at = 0
    for _, texts, scores in score_pairs(store):
        ids, captions = texts["id"].to_pylist(), texts["caption"].to_pylist()
        for id, caption, score in zip(ids, captions, scores.tolist(), strict=True):
            yield {"id": id, "caption": caption, "score": score, "kept": bool(chosen[at])}
            at += 1


def _write_table(
    store: EmbeddingStore, folder: Path, chosen: np.ndarray, threshold: float
) -> tuple[Path | None, int]:
    """Write the images that keep a caption, and the manifest; return it, and how many they are."""
    root = _root(store, folder, chosen)
    images = 0
    if root is None:
        return None, sum(1 for _ in _images(store, chosen))
    with (folder / TABLE).open("w", encoding="utf-8") as file:
        for image in _images(store, chosen):
            image["image"] = os.path.relpath(_absolute(image["image"]), root)
            file.write(json.dumps(image, ensure_ascii=False) + "\n")
            images += 1
    data, model = store.info.data["name"], store.info.model["name"]
    path = folder / MANIFEST
    write_manifest(
        path,
        {
            "name": folder.resolve().name,
            "title": f"{data}, pairs with a CLIP score of at least {threshold:.4f} by {model}",
            "licence": f"that of {data}",
            "source": {
                "kind": "table",
                "root": root,
                "path": os.path.relpath(_absolute(folder / TABLE), root),
            },
            "columns": {"image": "image", "caption": "captions", "label": "label", "id": "id"},
        },
    )
    return path, images


def _root(store: EmbeddingStore, folder: Path, chosen: np.ndarray) -> str | None:
    """Return the folder that all images and the table are in; `None` where one has no file."""
    root = str(_absolute(folder))
    for number, image in enumerate(_images(store, chosen)):
        if image["image"] is None:
            return None
        path = _absolute(image["image"])
        if number == 0 and not path.is_file():
            raise StoreError(
                f"there is no image {path}: run this in the folder that the store was made in"
            )
        root = os.path.commonpath([root, path.parent])
    return root


def _absolute(path: str | Path) -> Path:
    """Return a path from the root; symbolic links are left as they are."""
    return Path(os.path.normpath(Path(path).absolute()))


def _images(store: EmbeddingStore, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield each image that keeps a caption, with these captions and their scores."""
    at = 0
    last: dict[str, Any] | None = None
    for images, texts, scores in score_pairs(store):
        columns = (images[name].to_pylist() for name in ("id", "path", "label"))
        rows = zip(*columns, texts["caption"].to_pylist(), scores.tolist(), strict=True)
        for id, path, label, caption, score in rows:
            at += 1
            if not chosen[at - 1]:
                continue
            if last is None or last["id"] != id:
                if last is not None:
                    yield last
                last = {"id": id, "image": path, "captions": [], "label": label, "scores": []}
            last["captions"].append(caption)
            last["scores"].append(score)
    if last is not None:
        yield last
