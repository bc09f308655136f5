import threading
from pathlib import Path

import pytest

from clipkit.embed import work as module
from clipkit.embed.store import Shard
from clipkit.embed.stream import Bad
from clipkit.embed.work import Plan, Record, WorkFolder
from clipkit.errors import StoreError
from clipkit.launch import Share

MAIN, OTHER = Share(0, 2, 0, "one launch"), Share(1, 2, 1, "one launch")


def test_nothing_is_left_where_nothing_was_done(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "store", Share()) as work:
        assert work.in_use()
    assert not (tmp_path / "store").exists()


def test_one_main_process_at_a_time(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, Share()):
        with pytest.raises(StoreError, match="another clipkit writes into"):
            WorkFolder(tmp_path, MAIN).__enter__()
    with WorkFolder(tmp_path, MAIN):
        pass


def test_the_others_get_the_plan_of_their_own_launch(tmp_path: Path) -> None:
    """Not one that a process left which was killed."""
    tmp_path.joinpath(".work").mkdir()
    (tmp_path / ".work" / "plan.json").write_text('{"launch": "one launch", "samples": 1}')
    plans: list[Plan] = []

    def other() -> None:
        with WorkFolder(tmp_path, OTHER) as work:
            plans.append(work.wait_for_plan())

    thread = threading.Thread(target=other)
    thread.start()
    with WorkFolder(tmp_path, MAIN) as work:
        work.publish(Plan("one launch", 18, reuse=["shard-00000.parquet"]))
        work.wait_for_joined()
        thread.join()
        assert plans == [Plan("one launch", 18, True, ["shard-00000.parquet"])]
        assert WorkFolder(tmp_path, OTHER).goes_on()
        work.withdraw()
        assert not WorkFolder(tmp_path, OTHER).goes_on()


def test_another_launch_is_refused(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, Share()) as work:
        work.publish(Plan("", 18))
        refused: list[str] = []

        def other() -> None:
            with WorkFolder(tmp_path, OTHER) as mine:
                with pytest.raises(StoreError, match="another clipkit") as error:
                    mine.wait_for_plan()
                refused.append(str(error.value))

        thread = threading.Thread(target=other)
        thread.start()
        while thread.is_alive():
            work.answer()
            thread.join(0.05)
        assert refused


def test_without_a_main_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkFolder(tmp_path, OTHER) as work:
        with pytest.raises(StoreError, match=r"process 1 of 2 waited 0\.3 seconds for the main"):
            work.wait_for_plan(patience=0.3)


def test_the_main_process_does_not_wait_for_ever(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, MAIN) as work:
        work.wait_for_joined(patience=0.3)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    record = Record(
        Shard("shard-00003.parquet", 5, 7, "ab", 1, "cd"), (Bad(3, "ü", "r", "w", "s", True),), 4
    )
    with WorkFolder(tmp_path, Share()) as work:
        assert work.record(3) is None
        work.parts(3).mkdir(parents=True)
        work.keep(3, record)
        assert work.record(3) == record
        assert work.is_whole(3)
        assert not work.parts(3).exists()
        work.drop(3)
        assert not work.is_whole(3)


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    names = [".shard-00001.parquet.123", ".store.json.77", ".rejects.parquet.5"]
    kept = [".shard", ".hidden", "shard-00001.parquet", ".store.json"]
    for name in names + kept:
        (tmp_path / name).write_text("x")
    with WorkFolder(tmp_path, Share()) as work:
        (work.path / ".plan.json.5").write_text("x")
        work.sweep()
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "lock"}
    assert module.UNIT % 128 == 0  # full batches of a GPU
