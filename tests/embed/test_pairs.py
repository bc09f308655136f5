import pyarrow as pa
import pytest

from clipkit.data.rejects import Rejects
from clipkit.embed.pairs import Pairs


@pytest.mark.parametrize("size", [1, 2, 5, 99])
def test_captions_find_their_image_across_shards(size: int) -> None:
    ids = ["a", "b", "b", "b", "x", "c", "d", "d", "d", "d"]
    kinds = ["image", "image", "text", "text", "text", "image", "image", "text", "text", "text"]
    table = pa.table({"id": ids, "kind": kinds, "row": list(range(10))})
    rejects = Rejects()
    pairs = Pairs(rejects)
    found = []
    for start in range(0, 10, size):
        part = pairs.of(table.slice(start, size))
        found += list(
            zip(part["image"]["row"].to_pylist(), part["text"]["row"].to_pylist(), strict=True)
        )
    pairs.close()
    assert found == [(1, 2), (1, 3), (6, 7), (6, 8), (6, 9)]
    assert sorted((reject.id, reject.reason) for reject in rejects.rows) == [
        ("a", "image without a caption"),
        ("c", "image without a caption"),
        ("x", "caption without an image"),
    ]
