"""Images and their captions, side by side: the pairs of a store of both."""

import pyarrow as pa

from clipkit.data.rejects import Rejects
from clipkit.types import Reject

UNPAIRED = {"image": "image without a caption", "text": "caption without an image"}


class Pairs:
    """Puts captions beside their images, which may be in the shard before.

    Args:
        rejects: gets the images without captions, and the captions without images.
    """

    def __init__(self, rejects: Rejects) -> None:
        """Hold no image yet."""
        self._rejects = rejects
        self._image: pa.Table | None = None  # the last image that was met, one row
        self._used = True

    def of(self, table: pa.Table) -> dict[str, pa.Table]:
        """Return the pairs whose captions are in a shard: "image" rows, "text" rows beside them.

        Args:
            table: the next shard, with `id`, `kind` and what is wanted of a row.
        """
        held = self._image
        both = table if held is None else pa.concat_tables([held, table])
        ids, kinds = both["id"].to_pylist(), both["kind"].to_pylist()
        images, texts = [], []
        last, used = (None, True) if held is None else (0, self._used)
        for row in range(0 if held is None else 1, len(both)):
            if kinds[row] == "image":
                self._leave(ids, last, used)
                last, used = row, False
            elif last is not None and ids[last] == ids[row]:
                images.append(last)
                texts.append(row)
                used = True
            else:
                self._rejects.add(Reject(ids[row], UNPAIRED["text"]))
        self._image, self._used = (None if last is None else both.slice(last, 1)), used
        return {
            "image": both.take(pa.array(images, pa.int64())),
            "text": both.take(pa.array(texts, pa.int64())),
        }

    def close(self) -> None:
        """List the last image where no caption came."""
        if self._image is not None:
            self._leave(self._image["id"].to_pylist(), 0, self._used)

    def _leave(self, ids: list[str], image: int | None, used: bool) -> None:
        if image is not None and not used:
            self._rejects.add(Reject(ids[image], UNPAIRED["image"]))
