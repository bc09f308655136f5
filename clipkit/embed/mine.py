"""Hard negatives of the rows of a store, as a table to train on.

See `clipkit.embed.negatives` for what is skipped as a false negative, and why.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int

from clipkit.data.dataset import caption_key
from clipkit.data.hashing import hash_strings
from clipkit.embed.contents import Contents
from clipkit.embed.found_rows import check_listing, write_listing
from clipkit.embed.negatives import Limits, Negatives, hard_negatives
from clipkit.embed.search import exact_cosines
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.vectors import Vectors
from clipkit.errors import ConfigError, StoreError
from clipkit.types import Progress

SHOWN = 10
"""Anchors whose negatives are held to be shown."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),
        ("caption", pa.string()),
        ("positive", pa.float64()),
        ("negative_ids", pa.list_(pa.string())),
        ("negative_rows", pa.list_(pa.int64())),
        ("negative_captions", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
_PAIRS = 8_192  # scored in float64 at once


@dataclass(slots=True)
class Mined:
    """What was mined.

    Attributes:
        anchors: rows that negatives were looked for.
        negatives: that were found, of all anchors together.
        short: anchors that have fewer than k.
        unpaired: anchors that have no positive, so that no score was too near to its.
        skipped: how many of the k nearest of all anchors were skipped, by reason: "image",
            "caption" and "label" for what is the same, "score" for what is too near.
        first: the first rows of the table.
    """

    anchors: int = 0
    negatives: int = 0
    short: int = 0
    unpaired: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, Any]] = field(default_factory=list)


def mine_negatives(
    store: EmbeddingStore,
    out: str | Path | None = None,
    *,
    k: int = 10,
    anchors: str | None = None,
    among: str | None = None,
    limits: Limits | None = None,
    labels: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
) -> Mined:
    """Find the k hardest negatives of each image or caption of a store, and write them as a table.

    The hardest are the nearest by cosine that are no false negatives. An image's other captions,
    other pictures of the same bytes, and whatever has a caption (case and spaces aside) or a label
    in common with it are skipped, and so is what comes too near to the score of its positive. The
    positive of an image is the best of its captions, that of a caption is its image; among rows of
    its own kind a row's positive is itself, with a score of 1.

    The table has a row for each anchor: `id`, `row`, `caption`, `positive` (that score), and the
    lists `negative_ids`, `negative_rows`, `negative_captions` and `scores`, the nearest first.
    All anchors are compared with all candidates, whatever index there is.

    Args:
        store: of images, captions or both.
        out: the table to write, .parquet or .jsonl; none when `None`.
        k: negatives of each, at most.
        anchors: "image" or "text": which rows negatives are looked for; images when `None`, where
            there are any.
        among: "image" or "text": which rows they are; the other kind when `None`, where there is
            one.
        limits: which scores are too near; above 0.95 of the positive's when `None`.
        labels: rows with the same label are no negatives of each other.
        device: where to multiply, such as "cuda"; the CPU when `None`.
        progress: told how many rows are done, and of how many.

    Raises:
        ConfigError: an option is out of range.
        StoreError: the store has no rows of such a kind, or the table cannot be written.
    """
    if out is not None:
        check_table(Path(out))
    anchors, among = _kinds(store, anchors, among)
    chosen, candidates = store.matching(kind=anchors), store.matching(kind=among)
    if chosen is None or candidates is None or not (chosen.any() and candidates.any()):
        raise StoreError(f"{store.path} has no {anchors} rows or no {among} rows")
    contents, samples = read_contents(store, labels=labels)
    positives = np.ones(len(store))
    if anchors != among:
        positives = _positives(store.vectors(), store.matching(kind="image"), samples)
    blocks = hard_negatives(
        store.vectors(),
        k,
        (limits or Limits()).ceilings(positives),
        contents,
        anchors=chosen,
        among=candidates,
        device=None if device is None else torch.device(device),
        progress=progress,
    )
    mined = Mined(unpaired=int(np.isnan(positives[chosen]).sum()))
    rows = _listed(store, blocks, positives, mined)
    if out is not None:
        write_listing(Path(out), rows, _SCHEMA)
    else:
        for _ in rows:
            pass
    return mined


def check_table(path: Path) -> None:
    """Refuse a table that could not be written.

    Raises:
        StoreError: it is there already, or is to be of a kind that has no lists.
    """
    if path.suffix.lower() not in (".parquet", ".jsonl"):
        raise StoreError(f"{path} ends in none of .parquet, .jsonl: the negatives are lists")
    check_listing(path)


def read_contents(
    store: EmbeddingStore, *, labels: bool = True
) -> tuple[Contents, Int[np.ndarray, " rows"]]:
    """Return what the samples of a store show, and of each row which sample it is of.

    Args:
        store: any.
        labels: whether rows with the same label show the same.
    """
    wanted = [name for name in ("id", "kind", "sha256", "caption") if name in store.schema().names]
    keys: dict[str, list[Int[np.ndarray, " rows"]]] = {"image": [], "caption": [], "label": []}
    ids = []
    for table in store.iter_shards([*wanted, "label"]):
        ids.append(hash_strings(table["id"].combine_chunks()))
        images = table["kind"].to_numpy() == "image"
        digests = table["sha256"].to_pylist() if "sha256" in wanted else [None] * len(table)
        keys["image"].append(np.where(images, _keys(digests), -1))
        told = [None if c is None else caption_key(c) or None for c in table["caption"].to_pylist()]
        keys["caption"].append(_keys(told))
        keys["label"].append(_keys(table["label"].to_pylist()))
    if not labels:
        del keys["label"]
    _, samples = np.unique(np.concatenate(ids), return_inverse=True)
    keyed = {name: (samples, np.concatenate(parts)) for name, parts in keys.items()}
    return Contents(keyed, samples), samples


def _keys(texts: Sequence[str | None]) -> Int[np.ndarray, " rows"]:
    """Return numbers that are equal for equal texts, -1 for none."""
    found = (hash_strings(pa.array(texts, pa.string())) >> np.uint64(1)).astype(np.int64)
    none: np.ndarray = np.array([text is None for text in texts], dtype=bool)
    return np.where(none, -1, found)


def _kinds(store: EmbeddingStore, anchors: str | None, among: str | None) -> tuple[str, str]:
    for name, kind in (("anchors", anchors), ("among", among)):
        if kind not in (None, "image", "text"):
            raise ConfigError(f"{name} must be 'image' or 'text', not {kind!r}")
    there = {"images": ["image"], "captions": ["text"]}.get(store.info.what, ["image", "text"])
    anchors = there[0] if anchors is None else anchors
    others = [kind for kind in there if kind != anchors]
    return anchors, among or (others or there)[0]


def _positives(
    vectors: Vectors, images: Bool[np.ndarray, " rows"] | None, samples: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """Return the cosine of each caption with its image, of each image the highest; nan for none."""
    found = np.full(len(vectors), np.nan)
    if images is None or not len(samples):
        return found
    image_of = np.full(int(samples.max()) + 1, -1)
    image_of[samples[images]] = np.flatnonzero(images)
    texts = np.flatnonzero(~images & (image_of[samples] >= 0))
    for at in range(0, len(texts), _PAIRS):
        some = texts[at : at + _PAIRS]
        own = image_of[samples[some]]
        found[some] = exact_cosines(vectors.take(own), vectors.take(some))
        np.fmax.at(found, own, found[some])
    return found


def _listed(
    store: EmbeddingStore,
    blocks: Iterator[Negatives],
    positives: Float[np.ndarray, " rows"],
    mined: Mined,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table, and count them."""
    for block in blocks:
        found = block.rows >= 0
        mined.anchors += len(block.anchors)
        mined.negatives += int(found.sum())
        mined.short += int((~found).any(axis=1).sum())
        mined.skipped.update(block.skipped)
        numbers = np.union1d(block.anchors, block.rows[found]).tolist()
        told = dict(zip(numbers, store.rows_at(numbers, ["id", "caption"]), strict=True))
        for at, anchor in enumerate(block.anchors.tolist()):
            rows = block.rows[at][found[at]].tolist()
            score = float(positives[anchor])
            line = {
                "id": told[anchor]["id"],
                "row": anchor,
                "caption": told[anchor]["caption"],
                "positive": None if np.isnan(score) else score,
                "negative_ids": [told[row]["id"] for row in rows],
                "negative_rows": rows,
                "negative_captions": [told[row]["caption"] for row in rows],
                "scores": block.scores[at][found[at]].tolist(),
            }
            if len(mined.first) < SHOWN:
                mined.first.append(line)
            yield line
