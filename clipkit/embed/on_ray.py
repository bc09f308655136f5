"""Embedding on a Ray cluster: actors share the work on a store. The only import of ray.

Actors are processes like any others that share a store: they take units of samples from the folder
that all of them see, and write parts into it. Ray starts them, gives them GPUs, and says when one
has died; then another is started, and it goes on where that one was. Ray Data's `map_batches`
would do less: it cuts and orders its blocks as it likes, so what shares a batch, and with that the
bytes of the store, would be another in each run, and it sends rows over the network that can go
to the disk at once.
"""

import importlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipkit.data.rejects import Rejects
from clipkit.embed.export import (
    check_folder,
    check_options,
    describe,
    find_data,
    find_model,
    fingerprint_of,
)
from clipkit.embed.fill import fill
from clipkit.embed.rows import build_schema
from clipkit.embed.store import EmbeddingStore
from clipkit.embed.stream import Encoder
from clipkit.embed.work import WorkFolder
from clipkit.errors import ClipkitError, ConfigError, MissingExtraError, StoreError
from clipkit.launch import Share
from clipkit.signals import StopSignals
from clipkit.types import Progress

RESTARTS = 10
"""Actors that may die before the work is given up; what they did is kept."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What an actor has to know; everything in it can be sent to another machine."""

    model: str
    data: str | list[str]
    out: str
    what: str
    shard_rows: int
    dtype: str
    batch_size: int | None
    precision: str
    device: str | None
    max_rejected: float


def embed_with_ray(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    workers: int,
    gpus: float = 0,
    what: str = "images",
    shard_rows: int = 10_000,
    dtype: str = "float32",
    batch_size: int | None = None,
    precision: str = "float32",
    max_rejected: float = 0.01,
    progress: Progress | None = None,
) -> EmbeddingStore:
    """Encode a whole data set into a store as `embed` does, by actors of a Ray cluster.

    The cluster is the one that `ray.init` has connected to, else a new one on this machine. All of
    its machines must see the model, the data and the store under the same paths.

    Args:
        model: what `clipkit.load` takes by its name.
        data: what `load_data` takes by its name, or a list of image files.
        out: the folder of the store, as `embed` has it.
        workers: actors.
        gpus: that each actor gets of its machine; without any it computes on the CPU.
        what: "images", "captions" or "both".
        shard_rows: rows of the data that one shard is made from.
        dtype: "float32" or "float16", for what is stored.
        batch_size: images a forward pass; what suits the device when `None`.
        precision: of the model, see `clipkit.load`.
        max_rejected: largest share of rows that may be unusable; one row always may.
        progress: told how many rows of the data are done, and of how many.

    Raises:
        MissingExtraError: ray is not installed.
        ClipkitError: as `embed`; also where an actor met the trouble.
        StoreError: too many actors have died.
    """
    check_options(what, dtype, shard_rows, batch_size, precision)
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    named = str(data) if isinstance(data, str | Path) else [str(path) for path in data]
    device = "cuda" if gpus else None
    settings = (what, shard_rows, dtype, batch_size, precision, device, max_rejected)
    task = _Task(str(model), named, str(Path(out).absolute()), *settings)
    share = Share(0, workers + 1, 0, uuid.uuid4().hex)
    with StopSignals() as stop, WorkFolder(check_folder(Path(task.out)), share) as work:
        with stop.at_once():
            actors = _Actors(task, share, gpus)
        try:
            return _run(work, task, stop, progress, actors.tend)
        finally:
            actors.end()


def _run(
    work: WorkFolder,
    task: _Task,
    stop: StopSignals | None = None,
    progress: Progress | None = None,
    tend: Callable[[], None] | None = None,
) -> EmbeddingStore:
    """Do one process's part: the main one puts together what the others encode."""
    dataset = find_data(task.data, task.what)
    device = None if work.is_main else task.device
    model = find_model(task.model, task.precision, device, Share())
    info = describe(model, dataset, task.what, task.dtype, task.shard_rows)
    return fill(
        work,
        info,
        dataset.samples,
        build_schema(dataset.samples, dim=info.dim, dtype=task.dtype),
        None if work.is_main else Encoder(model, task.batch_size),
        rejects=Rejects(task.max_rejected, dataset.rejects),
        stop=stop,
        progress=progress,
        fingerprint=partial(fingerprint_of, dataset, task.what),
        tend=tend,
    )


def _help(task: _Task, share: Share) -> str | None:
    """Do an actor's part; return the sentence in which it ended, if it did not end well."""
    try:
        with WorkFolder(Path(task.out), share) as work:
            _run(work, task)
    except ClipkitError as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Actors:
    """The actors of a cluster: started, watched, and started anew where one has died."""

    def __init__(self, task: _Task, share: Share, gpus: float) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise MissingExtraError("embedding on Ray", "ray") from None
        self._mine = not self._ray.is_initialized()
        if self._mine:
            self._ray.init(log_to_driver=False, include_dashboard=False)
        self._task, self._share, self._gpus = task, share, gpus
        self._deaths = 0
        self._running: dict[Any, tuple[int, Any]] = {}
        for rank in range(1, share.count):
            self._start(rank)

    def _start(self, rank: int) -> None:
        class Helper:
            def run(self, task: _Task, share: Share) -> str | None:
                return _help(task, share)

        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus)(Helper).remote()
        share = Share(rank, self._share.count, 0, self._share.launch)
        self._running[actor.run.remote(self._task, share)] = (rank, actor)

    def tend(self) -> None:
        """Look after the actors; raises ClipkitError where one has met trouble."""
        done, _ = self._ray.wait(list(self._running), timeout=0) if self._running else ([], [])
        for future in done:
            rank, _ = self._running.pop(future)
            try:
                told = self._ray.get(future)
            except self._ray.exceptions.RayActorError:
                self._deaths += 1
                if self._deaths > RESTARTS:
                    raise StoreError(
                        f"{self._deaths} actors have died (too little memory?); what they did is"
                        f" kept in {self._task.out}: mend that and run the same again"
                    ) from None
                self._start(rank)
                continue
            if told is not None:
                raise StoreError(f"actor {rank} ended with {told}")

    def end(self) -> None:
        """Stop the actors, and the cluster where it was started for this."""
        for _, actor in self._running.values():
            self._ray.kill(actor)
        if self._mine:
            self._ray.shutdown()
