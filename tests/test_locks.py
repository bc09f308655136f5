import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from clipkit.locks import FileLock, is_held


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    first, second = FileLock(path), FileLock(path)
    assert first.take()
    assert (first.held, second.take(), second.held, is_held(path)) == (True, False, False, True)
    first.give_back()
    assert second.take()
    second.give_back(remove=True)
    assert not path.exists()
    assert not is_held(path)


def test_the_next_one_waits(tmp_path: Path) -> None:
    order: list[str] = []
    with FileLock(tmp_path / "lock"):
        thread = threading.Thread(target=wait, args=(tmp_path / "lock", order))
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def wait(path: Path, order: list[str]) -> None:
    with FileLock(path):
        order.append("second")


def test_a_file_that_was_removed_is_no_lock(tmp_path: Path) -> None:
    """Whoever opened it before that would else have a lock that the next one does not see."""
    path = tmp_path / "lock"
    first = FileLock(path)
    assert first.take()
    thread_took: list[bool] = []

    def late() -> None:
        lock = FileLock(path)
        thread_took.append(lock.take(wait=True))
        thread_took.append(os.path.samestat(path.stat(), os.fstat(lock._file or -1)))

    thread = threading.Thread(target=late)
    thread.start()
    time.sleep(0.05)
    first.give_back(remove=True)
    thread.join()
    assert thread_took == [True, True]


def test_a_killed_process_has_none(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from clipkit.locks import FileLock\n"
        "lock = FileLock(Path(sys.argv[1])); print(lock.take(), flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    assert is_held(path)
    process.kill()
    process.communicate()
    assert not is_held(path)
