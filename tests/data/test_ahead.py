"""Order, bounds, and rows that hang or break their reader."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from clipkit.data.ahead import map_ahead
from clipkit.errors import ConfigError, DataError, ImageError


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order(threads: int) -> None:
    first = threading.Event()

    def work(item: int) -> int:
        if item == 0 and threads > 1:
            assert first.wait(10)  # later ones are done before
        elif item == 2:
            first.set()
        return item * item

    found = list(map_ahead(work, range(50), threads=threads, ahead=8, name=str))
    assert found == [item * item for item in range(50)]


def test_items_are_taken_when_there_is_room() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), threads=2, ahead=4, name=str)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()


def test_a_row_that_hangs_is_named() -> None:
    never = threading.Event()
    results = map_ahead(
        lambda item: never.wait() if item == 2 else item,
        range(5),
        threads=2,
        ahead=4,
        name=lambda item: f"row-{item}",
        stall_seconds=0.2,
    )
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match=r"row 'row-2' is not read after 0\.2 seconds"):
        next(results)
    never.set()


def test_a_hanging_row_does_not_keep_the_process() -> None:
    code = """
import threading
from clipkit.data.ahead import map_ahead
from clipkit.errors import DataError
try:
    list(map_ahead(lambda item: threading.Event().wait(), [1], threads=1, ahead=1, name=str,
                   stall_seconds=0.2))
except DataError:
    print("told")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "told\n"


@pytest.mark.parametrize("threads", [0, 2])
def test_a_row_that_breaks_its_reader_is_named(threads: int) -> None:
    def work(item: str) -> str:
        if item == "b.jpg":
            raise MemoryError("4 GB")
        return item

    results = map_ahead(work, ["a.jpg", "b.jpg"], threads=threads, ahead=1, name=str)
    assert next(results) == "a.jpg"
    with pytest.raises(DataError, match=r"row .b\.jpg. broke its reader: MemoryError: 4 GB"):
        next(results)


def test_own_errors_pass_as_they_are() -> None:
    def work(item: int) -> int:
        raise ImageError("file not found")

    with pytest.raises(ImageError, match=r"^file not found$"):
        list(map_ahead(work, [1], threads=1, ahead=1, name=str))


def test_workers_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers must be at least 0, not -1"):
        list(map_ahead(str, [1], threads=-1, ahead=1, name=str))


def test_the_end_of_the_process_waits_for_what_threads_are_at() -> None:
    code = """
import sys, time
from clipkit.data.ahead import map_ahead
def work(item):
    if item:
        time.sleep(0.5)
        sys.stdout.write("whole\\n")
        sys.stdout.flush()
    return item
results = map_ahead(work, range(9), threads=1, ahead=4, name=str)
next(results)
time.sleep(0.1)
sys.exit(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "whole\n", "")
