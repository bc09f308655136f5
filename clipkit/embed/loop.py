"""What a process does of the work on a store: units of samples, one after the other.

Each takes the next unit that nobody has. The main process puts shards together as they become
whole, and does what a process that was killed leaves undone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from clipkit.data.rejects import Rejects
from clipkit.embed.finish import put_together
from clipkit.embed.parts import chain, join_chunks, read_part
from clipkit.embed.prepare import Ready, shard_count, shard_range, units_of
from clipkit.embed.reuse import Reuse
from clipkit.embed.store import INFO, EmbeddingStore, Made, StoreInfo
from clipkit.embed.stream import Chunk, Encoder, Item, encode_stream
from clipkit.embed.work import UNIT, WorkFolder, writing
from clipkit.errors import Interrupted, StoreError
from clipkit.locks import FileLock
from clipkit.signals import StopSignals
from clipkit.signals import stop as stop_now
from clipkit.types import Progress, Reject, Sample

SAVE_SECONDS = 1.0
"""A run that is killed loses what it encoded in so many seconds, and the batch at hand."""

_TICK = 0.1


class Loop:
    """What one process does of the work on a store; see `fill` for the arguments."""

    def __init__(
        self,
        work: WorkFolder,
        info: StoreInfo,
        samples: Sequence[Sample],
        schema: pa.Schema,
        encoder: Encoder | None,
        rejects: Rejects,
        stop: StopSignals | None,
        progress: Progress | None,
    ) -> None:
        """Nothing is done yet."""
        self.work, self.info, self.samples, self.schema = work, info, samples, schema
        self.encoder, self.rejects, self.stop, self.progress = encoder, rejects, stop, progress
        self.count = shard_count(len(samples), info.shard_rows)
        self.first = 0  # the shards before it are whole
        self.done = 0
        self.rows = len(rejects)
        self.reuse = Reuse()
        self.taken: dict[str, str] = {}
        self.locks: dict[int, FileLock] = {}
        self.shown: StoreInfo | None = None

    def begin(self, ready: Ready) -> None:
        """Count what is done already, in the main process."""
        self.reuse = Reuse([self.work.folder / name for name in ready.reuse])
        self.taken = ready.taken
        self.done += ready.samples
        self.rows += ready.rows
        for bad in ready.bad:
            self.rejects.add(Reject(bad.id, bad.reason, bad.where))
        if ready.before is None or not ready.before.complete:
            self.shown = replace(self.info, shards=[])  # what readers see of a store to come
            while (record := self.work.record(len(self.shown.shards))) is not None:
                self.shown.shards.append(record.shard)
                self.shown.rows += record.shard.rows

    def finished(self) -> bool:
        """Put together the shards that can be, and say whether that was the last one."""
        while self.first < self.count and self._is_whole(self.first):
            self.first += 1
        for number in range(self.first + 1, self.count):
            if not self.work.parts(number).is_dir() and not self.work.is_whole(number):
                break  # nobody is further than that
            self._is_whole(number)
        return self.first == self.count

    def pause(self) -> None:
        """Wait for other processes."""
        self.work.answer()
        self._stop_if_asked()
        time.sleep(_TICK)
        self._tell_of_all()

    def encode(self) -> bool:
        """Encode what nobody is busy with; say whether there was anything."""
        if self.encoder is None:
            return False
        chunks: list[Chunk] = []
        saved = time.monotonic()
        before = self.done
        items, what = self._items(), self.info.what
        chunks_to_come = encode_stream(
            self.encoder, items, what, dim=self.info.dim, reuse=self.reuse
        )
        try:
            for chunk in chunks_to_come:
                chunks.append(chunk)
                self._count(chunk)
                ends = self._ends_unit(chunk.stop)
                late = time.monotonic() - saved >= SAVE_SECONDS
                asked = bool(self.stop and self.stop.number)  # one that comes later waits
                if ends or late or asked or self._too_many():
                    self._save(chunks, ends)
                    chunks, saved = [], time.monotonic()
                    self._tell_of_all()
                elif self.progress is not None and self.work.share.count == 1:
                    self.progress(self.done, len(self.samples))
                if asked:
                    self._stop_if_asked()
                self.rejects.check(self.rows)
        finally:
            chunks_to_come.close()  # what is read ahead is read no further
            for lock in self.locks.values():
                lock.give_back()
            self.locks.clear()
        return self.done > before

    def _items(self) -> Iterator[Item]:
        """Yield the samples of one unit after another that no other process has or had."""
        for number in range(self.first, self.count):
            if self.work.is_whole(number):
                self.first += number == self.first
                continue
            for unit in units_of(self._range(number)):
                start = self._claim(number, unit)
                if start is None:
                    continue
                for place in range(start, unit.stop):
                    yield Item(place, self.samples[place], place == unit.stop - 1)

    def _claim(self, number: int, unit: range) -> int | None:
        """Return where to begin with a unit, once no other process can; `None` if it is done."""
        work = self.work
        if unit.start in self.locks or work.reached(number, unit.start, unit.stop) == unit.stop:
            return None
        lock = work.unit(unit.start)
        if work.share.count > 1:
            with writing(work.folder):
                if not work.goes_on() or not lock.take():
                    return None
            start = work.reached(number, unit.start, unit.stop)
            if work.is_whole(number) or start == unit.stop or not work.goes_on():
                lock.give_back()
                return None
        self.locks[unit.start] = lock
        return work.reached(number, unit.start, unit.stop)

    def _ends_unit(self, stop: int) -> bool:
        there = self._range((stop - 1) // self.info.shard_rows)
        return stop == there.stop or (stop - there.start) % UNIT == 0

    def _save(self, chunks: list[Chunk], ends: bool) -> None:
        """Write a part; at the end of a unit, let it go, and put its shard together."""
        part = join_chunks(chunks, self.schema)
        number = part.start // self.info.shard_rows
        with writing(self.work.folder):
            part.write(self.work.parts(number))
        self.work.answer()
        if not ends:
            return
        for start in [start for start in self.locks if start < part.stop]:
            if start // self.info.shard_rows == number:
                self.locks.pop(start).give_back()
        if self.work.is_main:
            self.finished()

    def _count(self, chunk: Chunk) -> None:
        self.done += chunk.stop - chunk.start
        self.rows += chunk.asked
        for bad in chunk.bad:
            self.rejects.add(Reject(bad.id, bad.reason, bad.where))

    def _too_many(self) -> bool:
        """Say whether the next check may end the work: then what there is must be saved first."""
        return len(self.rejects) > self.rejects.max_rejected * self.rows

    def _tell_of_all(self) -> None:
        if self.progress is not None:
            done = self.done if self.work.share.count == 1 else self._done_by_all()
            self.progress(done, len(self.samples))

    def _done_by_all(self) -> int:
        done = sum(len(self._range(number)) for number in range(self.first))
        for number in range(self.first, self.count):
            if self.work.is_whole(number):
                done += len(self._range(number))
                continue
            if not self.work.parts(number).is_dir():
                break
            for unit in units_of(self._range(number)):
                done += self.work.reached(number, unit.start, unit.stop) - unit.start
        return done

    def _range(self, number: int) -> range:
        return shard_range(number, len(self.samples), self.info.shard_rows)

    def _stop_if_asked(self) -> None:
        if self.stop is not None and self.stop.number:
            try:
                stop_now(self.stop.number)
            except Interrupted as error:
                raise Interrupted(
                    f"{error}: {self.done} of {len(self.samples)} rows are done; run the same"
                    " again and it goes on from there",
                    signal_number=error.signal_number,
                ) from None

    def _is_whole(self, number: int) -> bool:
        """Say whether a shard is whole; put it together where its parts are all there."""
        if self.work.is_whole(number):
            return True
        there = self._range(number)
        folder = self.work.parts(number)
        paths = [path for unit in units_of(there) for path in chain(folder, unit.start, unit.stop)]
        if any(
            self.work.reached(number, unit.start, unit.stop) < unit.stop for unit in units_of(there)
        ):
            return False
        parts = [(path, read_part(path)) for path in paths]
        for path, part in parts:
            if part is None:  # damaged since it was written
                path.unlink(missing_ok=True)
                return False
        whole = [part for _, part in parts if part is not None]
        stem = f"shard-{number:05d}"
        record = put_together(self.work.folder, stem, whole, self.schema, self.taken)
        self.work.keep(number, record)
        if self.shown is not None and number == len(self.shown.shards):
            self.shown.shards.append(record.shard)
            self.shown.rows += record.shard.rows
            with writing(self.work.folder):
                self.shown.write(self.work.folder)
        return True


class Helper(Loop):
    """A process that is not the main one."""

    def run(self) -> EmbeddingStore:
        """Encode what the main process leaves, until that one has finished the store."""
        work = self.work
        plan = work.wait_for_plan()
        if plan.samples != len(self.samples):
            raise StoreError(
                f"the main process found {plan.samples} rows in the data, and process"
                f" {work.share.rank} {len(self.samples)}: it changes at this moment"
            )
        before = _content(work.folder)
        self.reuse = Reuse([work.folder / name for name in plan.reuse])
        while plan.changes and work.goes_on():
            if not self.encode():
                self._stop_if_asked()
                time.sleep(_TICK)
        while work.in_use():
            self._stop_if_asked()
            time.sleep(_TICK)
        if plan.changes and _content(work.folder) == before:
            raise StoreError(
                f"the main process has ended and {work.folder} is not finished: run the same again"
                " and it goes on from there"
            )
        store = EmbeddingStore(work.folder)
        store.made = Made(is_main=False)
        return store


def _content(folder: Path) -> bytes:
    return (folder / INFO).read_bytes()
