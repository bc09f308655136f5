from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipkit.data.decode import decode_image
from clipkit.embed import stream
from clipkit.embed.rows import Row
from clipkit.embed.stream import Chunk, Encoder, Item, encode_stream
from clipkit.encode import encode_images, encode_texts
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import FileSlice, ImageSource, Sample
from tests.conftest import COLOURS


@pytest.fixture
def samples(photos: Path) -> list[Sample]:
    """Images of every kind, with none, one or several captions."""
    colours = list(COLOURS)
    found = []
    for number in range(18):
        path = photos / f"{colours[number % 6]}{number // 6}.png"
        kinds: list[ImageSource] = [
            path,
            path.read_bytes(),
            decode_image(path),
            FileSlice(path, 0, path.stat().st_size),
        ]
        captions = tuple(f"a {colours[at]} square" for at in range(number % 4))
        found.append(Sample(str(number), kinds[number % 4], captions))
    return found


def items(samples: list[Sample], first: int, unit: int) -> list[Item]:
    """Return samples from one on; each unit ends where a number of samples does."""
    last = len(samples) - 1
    return [
        Item(at, samples[at], (at + 1) % unit == 0 or at == last)
        for at in range(first, len(samples))
    ]


def joined(chunks: list[Chunk]) -> tuple[list[Row], np.ndarray]:
    rows = [row for chunk in chunks for row in chunk.rows]
    return rows, np.concatenate([chunk.embeddings for chunk in chunks if len(chunk.embeddings)])


@pytest.mark.parametrize("what", ["images", "captions", "both"])
@pytest.mark.parametrize("batch_size", [1, 5, 50])
def test_rows_come_in_order_with_their_embeddings(
    model: DualEncoder,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    batch_size: int,
) -> None:
    monkeypatch.setattr(stream, "TEXTS", 4)
    encoder = Encoder(model, batch_size)
    chunks = list(encode_stream(encoder, items(samples, 0, 7), what, dim=model.dim))
    rows, embeddings = joined(chunks)
    expected: list[tuple[str, str, Tensor]] = []
    for sample in samples:
        if what != "captions":
            expected.append((sample.id, "image", encode_images(model, [sample.image])[0][0]))
        if what != "images":
            expected += [(sample.id, "text", encode_texts(model, [t])[0]) for t in sample.captions]
    assert [(row.sample.id, row.kind) for row in rows] == [each[:2] for each in expected]
    wanted = torch.stack([each[2] for each in expected]).numpy()
    np.testing.assert_allclose(embeddings, wanted, rtol=0, atol=1e-5)
    assert chunks[0].start == 0
    assert [c.stop for c in chunks] == [c.start for c in chunks[1:]] + [18]
    assert {7, 14, 18} <= {chunk.stop for chunk in chunks}
    assert sum(chunk.asked for chunk in chunks) == len(rows)
    assert sum(chunk.skipped for chunk in chunks) == (5 if what == "captions" else 0)


@pytest.mark.parametrize("what", ["images", "captions", "both"])
def test_begun_at_any_chunk_it_gives_the_same_bits(
    model: DualEncoder, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Though what shares a batch decides the last bits: that is the same as well."""
    monkeypatch.setattr(stream, "TEXTS", 4)
    sizes: list[int] = []
    encode: Callable[[Tensor], Tensor] = model.encode_image

    def by_batch(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return encode(images) + len(images)  # as if each batch size had its own rounding

    encoder = Encoder(model, 3, images=by_batch)
    chunks = list(encode_stream(encoder, items(samples, 0, 8), what, dim=model.dim))
    for number in range(1, len(chunks)):
        rest = encode_stream(encoder, items(samples, chunks[number].start, 8), what, dim=model.dim)
        whole, again = joined(chunks[number:]), joined(list(rest))
        assert again[0] == whole[0]
        np.testing.assert_array_equal(again[1], whole[1])


def test_what_cannot_be_used_says_whether_to_try_again(
    model: DualEncoder, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    sources: list[ImageSource | None] = [
        tmp_path / "gone.png",
        tmp_path / "folder.png",
        b"no picture",
        b"",
        None,
        FileSlice(photos / "red0.png", 0, 1 << 30),
    ]
    told = items([Sample(str(at), source) for at, source in enumerate(sources)], 0, 100)
    chunks = list(encode_stream(Encoder(model), told, "both", dim=model.dim))
    assert [(bad.reason, bad.retry) for chunk in chunks for bad in chunk.bad] == [
        ("file not found", True),
        ("a folder, not a file", True),
        ("cannot identify image file", False),
        ("file is empty", False),
        ("row has no image", False),
        ("the file around it ends within it", True),
    ]
    assert sum(len(chunk.rows) for chunk in chunks) == 0
