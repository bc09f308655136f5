import sys
from types import SimpleNamespace

import pytest

from clipkit.train.processes import (
    is_main_process,
    make_accelerator,
    tracking,
    wait_for_everyone,
)
from tests.processes import start_processes


def test_one_process_is_the_main_one_and_waits_for_nobody() -> None:
    accelerator = make_accelerator("float32", find_unused_parameters=False)
    assert accelerator.num_processes == 1
    assert accelerator.mixed_precision == "no"
    assert is_main_process()
    wait_for_everyone()


def test_bf16_is_what_was_asked_for() -> None:
    assert make_accelerator("bf16", find_unused_parameters=True).mixed_precision == "bf16"


def test_trackers_finish_however_it_ends() -> None:
    finished: list[int] = []
    trackers = [SimpleNamespace(finish=lambda n=n: finished.append(n)) for n in (1, 2)]
    with tracking(SimpleNamespace(trackers=trackers)):
        assert not finished
    with pytest.raises(ValueError, match="x"), tracking(SimpleNamespace(trackers=trackers)):
        raise ValueError("x")
    assert finished == [1, 2, 1, 2]


def test_processes_part_before_they_end() -> None:
    code = (
        "import atexit, torch.distributed as dist\n"
        "atexit.register(lambda: print('parted', not dist.is_initialized()))\n"  # runs last
        "from clipkit.train.processes import is_main_process, wait_for_everyone\n"
        "is_main_process(); wait_for_everyone(); print('together', dist.is_initialized())\n"
    )
    started = start_processes([sys.executable, "-c", code], 2)
    told = [process.communicate(timeout=300)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert all("together True" in said and "parted True" in said for said in told), told
