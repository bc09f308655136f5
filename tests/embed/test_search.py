import numpy as np
import pyarrow as pa
import pytest

from clipkit.embed import search
from clipkit.embed.search import top_hits


def shards(embeddings: np.ndarray, kinds: list[str], sizes: list[int]) -> list[pa.Table]:
    tables, at = [], 0
    for size in sizes:
        block = embeddings[at : at + size]
        flat = pa.array(block.reshape(-1))
        table = pa.table(
            {
                "id": [str(i) for i in range(at, at + size)],
                "kind": kinds[at : at + size],
                "embedding": pa.FixedSizeListArray.from_arrays(flat, block.shape[1]),
                "caption": [None] * size,
                "label": [None] * size,
                "path": [None] * size,
                "year": list(range(at, at + size)),
            }
        )
        tables.append(table)
        at += size
    return tables


@pytest.mark.parametrize("block", [3, 16_384])
@pytest.mark.parametrize("k", [1, 4, 50])
@pytest.mark.parametrize("kind", [None, "text"])
def test_hits_equal_a_full_sort(
    block: int, k: int, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK_ROWS", block)
    rng = np.random.default_rng(0)
    embeddings = np.round(rng.normal(size=(20, 3)), 1).astype(np.float32)  # with ties
    embeddings[7] = embeddings[3]
    kinds = ["image" if i % 3 else "text" for i in range(20)]
    query = embeddings[3]
    scores = embeddings @ query
    order = sorted(range(20), key=lambda i: (-scores[i], i))
    expected = [i for i in order if kind in (None, kinds[i])][:k]
    hits = top_hits(shards(embeddings, kinds, [8, 5, 7]), query, k, kind)
    assert [int(hit.id) for hit in hits] == expected
    assert [hit.metadata["year"] for hit in hits] == expected
    np.testing.assert_allclose([hit.score for hit in hits], scores[expected], rtol=1e-6)


def test_an_empty_store_has_no_hits() -> None:
    assert top_hits([], np.ones(3, np.float32), 5, None) == []
