"""What a store is searched for: texts, images, embeddings, and sums of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from clipkit.encode import encode_images, encode_texts
from clipkit.errors import ImageError, StoreError
from clipkit.models import DualEncoder

Query = str | Path | Image | np.ndarray
"""A text, an image file, a PIL image, or an embedding."""


def encode_queries(
    queries: Sequence[Query], dim: int, model: Callable[[], DualEncoder]
) -> Float[np.ndarray, "queries dim"]:
    """Return queries as float64 of length 1.

    Args:
        queries: any number of them, of any kind.
        dim: width of an embedding.
        model: returns what encodes texts and images; it is not asked where there are none.

    Raises:
        StoreError: an embedding has another width, or no length.
        ImageError: an image cannot be used.
    """
    encoded = np.zeros((len(queries), dim))
    texts = [at for at, query in enumerate(queries) if isinstance(query, str)]
    images = [at for at, query in enumerate(queries) if isinstance(query, Path | Image)]
    for at, query in enumerate(queries):
        if isinstance(query, np.ndarray):
            encoded[at] = _check(query, dim)
    if texts:
        encoded[texts] = encode_texts(model(), [str(queries[at]) for at in texts]).numpy()
    if images:
        sources = [queries[at] for at in images]
        features, _, errors = encode_images(
            model(), [source for source in sources if isinstance(source, Path | Image)]
        )
        for place, reason in errors:
            raise ImageError(f"the query image {sources[place]} cannot be used: {reason}")
        encoded[images] = features.numpy()
    unit: np.ndarray = encoded / np.linalg.norm(encoded, axis=1, keepdims=True)
    return unit


def combine(
    plus: Float[np.ndarray, "plus dim"], minus: Float[np.ndarray, "minus dim"]
) -> Float[np.ndarray, " dim"]:
    """Return the direction of some queries added, and others subtracted, each of length 1.

    Raises:
        StoreError: nothing is left.
    """
    total = plus.sum(axis=0) - minus.sum(axis=0)
    length = np.linalg.norm(total)
    if not length > 1e-6:
        raise StoreError("nothing is left of the query: what is subtracted is what was asked for")
    direction: np.ndarray = total / length
    return direction


def _check(query: np.ndarray, dim: int) -> Float[np.ndarray, " dim"]:
    if query.shape != (dim,) or not (0 < np.linalg.norm(query.astype(np.float64)) < np.inf):
        raise StoreError(
            f"the query is an array {list(query.shape)}; an embedding of this store is [{dim}],"
            " finite and not zero"
        )
    return query.astype(np.float64)
