"""The work on a store from its begin to its end, alone or as one of several processes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from clipkit.data.rejects import Rejects
from clipkit.embed.finish import Fingerprint, finish
from clipkit.embed.loop import Helper, Loop
from clipkit.embed.prepare import prepare
from clipkit.embed.store import EmbeddingStore, Made, StoreInfo
from clipkit.embed.stream import Encoder
from clipkit.embed.work import Plan, WorkFolder
from clipkit.launch import Share
from clipkit.signals import StopSignals
from clipkit.types import Progress, Sample


def fill_store(
    folder: Path,
    info: StoreInfo,
    samples: Sequence[Sample],
    schema: pa.Schema,
    encoder: Encoder,
    *,
    rejects: Rejects,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Write what a store lacks, in this process alone; see `fill`."""
    with WorkFolder(folder, Share()) as work:
        return fill(work, info, samples, schema, encoder, rejects=rejects, progress=progress)


def fill(
    work: WorkFolder,
    info: StoreInfo,
    samples: Sequence[Sample],
    schema: pa.Schema,
    encoder: Encoder | None,
    *,
    rejects: Rejects,
    stop: StopSignals | None = None,
    progress: Progress | None = None,
    fingerprint: Fingerprint | None = None,
    tend: Callable[[], None] | None = None,
) -> EmbeddingStore:
    """Write what a store lacks, and say in its `store.json` that it is complete.

    Args:
        work: entered; says which of how many processes this is.
        info: what the store is to hold; nothing of it is done yet.
        samples: all of them, in their order; read when it is their turn.
        schema: the columns of the store.
        encoder: how samples are encoded; `None` to leave that to other processes.
        rejects: what reading the data gave, and how many there may be; the others are added.
        stop: what has been asked for by signals.
        progress: told how many samples are done, and of how many.
        fingerprint: makes the data's fingerprint of the sha256 of each image, in order.
        tend: called while other processes are waited for.

    Raises:
        StoreError: when the folder holds a store of another making, or cannot be written.
        RejectedError: when too many rows cannot be used.
        Interrupted: by a signal; what was encoded is saved.
    """
    reading = list(rejects.rows)
    if not work.is_main:
        return Helper(work, info, samples, schema, encoder, rejects, stop, None).run()
    ready = prepare(work, info, samples, schema, reading)
    launch = work.share.launch
    work.publish(Plan(launch, len(samples), not ready.finished, ready.reuse))
    if ready.finished:
        work.wait_for_joined()
        store = EmbeddingStore(work.folder)
        store.made = Made(reused=store.info.rows)
        work.withdraw()
        work.remove()
        return store
    loop = Loop(work, info, samples, schema, encoder, rejects, stop, progress)
    loop.begin(ready)
    while not loop.finished():
        if not loop.encode():
            loop.pause()
            if tend is not None:
                tend()
    work.wait_for_joined()
    return finish(work, info, ready, Rejects(rejects.max_rejected, reading), fingerprint)
