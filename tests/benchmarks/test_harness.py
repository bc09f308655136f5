"""The harness itself, with contenders that take no time: what it counts, compares and survives."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.compare import Answer, same_direction, same_for_scale, same_numbers
from tests.benchmarks.contenders import Contender, Running, Sampler, warm_up
from tests.benchmarks.growth import growth
from tests.benchmarks.harness import Bench
from tests.benchmarks.race import Race, Row, compare_with_peers, interval, leave, spread
from tests.benchmarks.table import Results
from tests.benchmarks.worker import Pace, Work

MB = 2**20
ABOUT = {"clipkit": 0.0, "late": 1.5, "peer": 0.0}
"""Contenders, and the seconds that each takes to set itself up."""


def contender(who: str, function: str, /, **given: object) -> Contender:
    return Contender(who, f"test_harness:{function}", given)


def noting(log: str, who: str, answer: float = 1.0, seconds: float = 0.0) -> Work:
    def go() -> np.ndarray:
        time.sleep(seconds)
        with Path(log).open("a") as file:
            file.write(f"{who} {os.getpid()}\n")
        return np.full(3, answer)

    return Work(go, flops=100.0)


def looping(log: str) -> Work:
    def loop(pace: Pace) -> None:
        times = 0
        while pace.begin():
            times += 1
            with Path(log).open("a") as file:
                file.write(f"loop {times}\n")
            pace.done(float(times))

    return Work(loop=loop)


def failing() -> Work:
    raise ValueError("no such\nthing")


def importing() -> Work:
    import a_library_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401

    return Work(lambda: None)


def dying() -> Work:
    def go() -> None:
        sys.stderr.write("out of memory\n")
        sys.stderr.flush()
        os._exit(3)

    return Work(go)


def sleeping() -> Work:
    import time

    return Work(lambda: time.sleep(60))


def holding(mb: int, child: bool) -> Work:
    hold = f"import time; held = bytearray(b'x') * ({mb} << 20); print('held', flush=True)"

    def here() -> None:
        import time

        held = bytearray(b"x") * (mb * MB)
        time.sleep(0.3)
        assert held

    def below() -> None:
        import time

        words = [sys.executable, "-c", f"{hold}; time.sleep(60)"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.kill()
        process.wait()

    return Work(below if child else here)


def test_contenders_work_in_turn_each_in_one_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [contender(who, "noting", log=str(log), who=who) for who in ("peer", "clipkit")]
    rows = Race("job", both, amount=5, unit="things", rounds=3).run()
    lines = [line.split() for line in log.read_text().splitlines()]
    turns = ["peer", "peer", "clipkit", "clipkit", "peer", "clipkit", "peer", "clipkit"]
    assert [who for who, _ in lines] == turns
    assert len({pid for _, pid in lines}) == 2
    for row in rows:
        assert len(row.seconds) == len(row.cpu) == len(row.ratios) == 3
        assert row.flops == 100
        assert row.against == "peer"


def setting_up(log: str, seconds: float) -> Work:
    time.sleep(seconds)
    with Path(log).open("a") as file:
        file.write("ready\n")

    def go() -> None:
        with Path(log).open("a") as file:
            file.write("go\n")

    return Work(go)


def test_nobody_works_before_all_have_set_themselves_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    waits = [contender(who, "setting_up", log=str(log), seconds=s) for who, s in ABOUT.items()]
    Race("job", waits, amount=1, unit="things", rounds=1, warm=False).run()
    assert log.read_text().split() == ["ready"] * 3 + ["go"] * 3


def test_new_processes_each_round(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = [contender("clipkit", "noting", log=str(log), who="a")]
    (row,) = Race("job", one, amount=1, unit="things", rounds=2, goes=2, together=False).run()
    pids = [line.split()[1] for line in log.read_text().splitlines()]
    assert pids == [pids[0]] * 3 + [pids[3]] * 3
    assert pids[0] != pids[3]
    assert len(row.seconds) == 4


def test_without_a_warm_up_the_first_go_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = [contender("clipkit", "noting", log=str(log), who="a")]
    (row,) = Race("job", one, amount=1, unit="things", rounds=2, warm=False).run()
    assert len(row.seconds) == len(log.read_text().splitlines()) == 2
    assert row.memory_mb is not None


def test_memory_is_looked_at_in_the_end() -> None:
    """Also of work that is over before it is looked at again."""
    with Sampler(os.getpid(), every=60) as sampler:
        before = sampler.peak
        held = bytearray(b"x") * (200 * MB)
    assert sampler.peak - before > 150
    assert held


def test_no_round_begins_after_enough(tmp_path: Path) -> None:
    one = [contender("clipkit", "noting", log=str(tmp_path / "log"), who="a")]
    (row,) = Race("job", one, amount=1, unit="things", rounds=5, enough=0).run()
    assert len(row.seconds) == 1


def test_who_takes_long_has_one_round_among_those_of_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [
        contender("clipkit, 1", "noting", log=str(log), who="short"),
        contender("clipkit, 9", "noting", log=str(log), who="long", seconds=1.0),
    ]
    rows = Race("job", both, amount=[1, 9], unit="rows", rounds=3, warm=False, once_from=1.0).run()
    assert [line.split()[0] for line in log.read_text().splitlines()] == [
        "short",
        "long",
        "short",
        "short",
    ]
    assert [row.amount for row in rows] == [1, 9]
    assert [len(row.seconds) for row in rows] == [3, 1]


def test_growth_is_told_round_by_round() -> None:
    small, large = (
        Row("job", "clipkit", "cpu", "float32", False, amount, "rows", memory_mb=mb)
        for amount, mb in ((1000, 10.0), (10_000, 12.0))
    )
    small.seconds = [1.0, 2.0, 4.0]
    large.seconds = [10.0, 20.0, 40.0]  # the machine slows down, and the ratio stays
    told = "1,000 to 10,000 rows: 10 times as many, 10.0 times as long (10.0 to 10.0), 10 to 12 MB."
    assert growth(small, large) == told
    large.seconds = [20.0]
    assert "10.0 times as long (" in growth(small, large)
    small.seconds = [2.0]
    assert "10.0 times as long, 10 to 12 MB" in growth(small, large)


def test_a_loop_of_its_own_is_paced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = [contender("clipkit", "looping", log=str(log))]
    (row,) = Race("job", one, amount=1, unit="steps", rounds=2).run()
    assert log.read_text().splitlines() == ["loop 1", "loop 2", "loop 3"]
    assert len(row.seconds) == 2


def test_one_that_fails_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    contenders = [
        contender("raises", "failing"),
        contender("lacks", "importing"),
        contender("dies", "dying"),
        contender("peer", "noting", log=log, who="peer"),
        Contender("no python", "test_harness:noting", python=str(tmp_path / "python")),
        contender("clipkit", "noting", log=log, who="clipkit"),
    ]
    rows = Race("job", contenders, amount=1, unit="things", compare=same_numbers(0)).run()
    problems = {row.who: row.problem for row in rows}
    assert problems["raises"] == "ValueError: no such thing"
    assert problems["lacks"].startswith("not installed: No module named 'a_library")
    assert problems["dies"] == "its process ended: out of memory"
    assert problems["no python"].startswith("not installed")
    assert [row.who for row in rows if row.counts] == ["peer", "clipkit"]
    assert rows[-1].against == "peer"


@pytest.mark.parametrize("imports", [(), ("json",)])
def test_one_that_takes_too_long_is_ended(imports: tuple[str, ...]) -> None:
    one = Contender("clipkit", "test_harness:sleeping", imports=imports)
    (row,) = Race("job", [one], amount=1, unit="things", limit=5).run()
    assert row.problem == "took more than 5 s"


def telling(name: str) -> Work:
    """What a worker is told by its environment, what it has imported, and who it is."""

    def go() -> dict[str, np.ndarray]:
        own = [os.getpid(), os.getppid(), os.getpgid(0), int("tabnanny" in sys.modules)]
        return {"own": np.array(own), "told": np.array(len(os.environ.get(name, "")))}

    return Work(go)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone forks them")
def test_workers_that_begin_with_their_imports_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process imports, for all who import the same; each of its workers is its own."""
    imports = ("tabnanny", "a_library_that_nobody_has")
    one = Contender("clipkit", "test_harness:telling", {"name": "TOLD"}, imports=imports)
    told = []
    for word in ("a", "abc"):
        monkeypatch.setenv("TOLD", word)
        (tmp_path / word).mkdir()
        running = Running(one, tmp_path / word)
        running.go(keep=True)
        told.append(running.answer())
        assert running.process.poll() is None
        running.close()
        assert running.process.poll() is not None
    assert [int(answer["told"]) for answer in told] == [1, 3]
    (first, parent, group, has), (second, same, _, _) = (answer["own"] for answer in told)
    assert has
    assert first == group != second
    assert parent == same != os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone forks them")
def test_warming_up_waits_for_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tmp_path / "done"
    source = f"import pathlib, time; time.sleep(1); pathlib.Path({str(done)!r}).touch()"
    (tmp_path / "a_slow_module.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert warm_up([("a_slow_module",), ("json",), ("json",)])
    assert done.exists()
    assert not warm_up([("json",), ()])


def test_one_that_fails_after_its_imports_says_so(tmp_path: Path) -> None:
    contenders = [
        Contender(name, f"test_harness:{name}", imports=("json",))
        for name in ("failing", "importing", "dying")
    ]
    rows = Race("job", contenders, amount=1, unit="things").run()
    assert rows[0].problem == "ValueError: no such thing"
    assert rows[1].problem.startswith("not installed: No module named 'a_library")
    assert rows[2].problem == "its process ended: out of memory"


def test_unequal_work_has_no_ratio(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    contenders = [
        contender("peer", "noting", log=log, who="peer"),
        contender("clipkit", "noting", log=log, who="clipkit", answer=1.5),
    ]
    rows = Race("job", contenders, amount=1, unit="things", compare=same_numbers(0.1)).run()
    assert rows[1].problem == "the work is not equal: largest difference 5.0e-01"
    assert not rows[1].ratios


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells")
def test_memory_is_of_the_whole_tree() -> None:
    both = [contender(str(child), "holding", mb=64, child=child) for child in (False, True)]
    for row in Race("job", both, amount=1, unit="things", rounds=1).run():
        assert row.above_mb is not None
        assert 60 < row.above_mb < 128, row.who


def test_a_command_and_its_answer() -> None:
    says = [sys.executable, "-c", "print('hello'); print([0.25, 0.75])"]
    fails = [sys.executable, "-c", "raise SystemExit('no model')"]
    contenders = [
        Contender("peer", command=says),
        Contender("clipkit", command=says),
        Contender("broken", command=fails),
    ]
    rows = Race("job", contenders, amount=1, unit="starts", compare=same_numbers(0)).run()
    assert [row.problem for row in rows] == ["", "", "no model"]
    assert rows[1].agreement == "difference 0e+00"
    assert rows[1].memory_mb
    assert len(rows[1].ratios) == 3


def row_of(who: str, precision: str, *seconds: float) -> Row:
    peer = not who.startswith("clipkit")
    return Row("job", who, "cpu", precision, peer, 10, "images", list(seconds))


def test_ratios_are_to_the_best_peer_of_the_same_precision() -> None:
    rows = [
        row_of("slow", "float32", 8.0, 8.0),
        row_of("good", "float32", 4.0, 6.0),
        row_of("half", "bf16", 2.0, 2.0),
        row_of("clipkit", "float32", 2.0, 2.0),
        row_of("clipkit auto", "bf16", 1.0, 1.0),
    ]
    compare_with_peers(rows)
    found = {one.who: (one.against, one.ratios) for one in rows}
    assert found["slow"] == ("good", [0.5, 0.75])
    assert found["good"] == ("good", [1.0, 1.0])
    assert found["clipkit"] == ("good", [2.0, 3.0])
    assert found["clipkit auto"] == ("half", [2.0, 2.0])


def test_who_is_far_behind_leaves() -> None:
    told = {
        "good": ("float32", [1.0]),
        "near": ("float32", [1.08]),
        "far": ("float32", [1.3]),
        "half": ("bf16", [0.5]),
        "slow half": ("bf16", [0.9]),
        "clipkit": ("float32", [9.0]),
    }
    rows = [row_of(who, precision, *seconds) for who, (precision, seconds) in told.items()]
    failed = Row("job", "failed", "cpu", "float32", True, 1, "things", [0.1], problem="not equal")
    leave([*rows, failed])
    assert [one.who for one in rows if one.left] == ["far", "slow half"]


def waiting(log: str, who: str, seconds: float) -> Work:
    def go() -> None:
        time.sleep(seconds)
        with Path(log).open("a") as file:
            file.write(f"{who}\n")

    return Work(go)


@pytest.mark.parametrize("imports", [(), ("json",)])
def test_who_has_left_works_no_more(tmp_path: Path, imports: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    contenders = [
        Contender(
            who,
            "test_harness:waiting",
            {"log": str(log), "who": who, "seconds": seconds},
            imports=imports,
        )
        for who, seconds in {"clipkit": 0.0, "good": 0.05, "far": 2.0}.items()
    ]
    rows = Race("job", contenders, amount=1, unit="things", rounds=3, warm=False).run()
    assert log.read_text().split() == ["clipkit", "good", "far", *["clipkit", "good"] * 2]
    assert [len(one.seconds) for one in rows] == [3, 3, 1]
    assert rows[0].against == "good"
    assert rows[2].left
    assert not rows[2].problem


def test_the_interval_of_ratios() -> None:
    middle, low, high = interval([1.0, 2.0, 4.0])
    assert middle == 2.0
    wide = 4.303 * np.log(2) / 3**0.5
    assert np.log([low, high]) == pytest.approx([np.log(2) - wide, np.log(2) + wide], rel=1e-3)
    assert np.isnan(interval([1.5])[1:]).all()
    assert interval([1.5])[0] == 1.5


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("compare", "near", "far"),
    [
        (same_direction(0.99), [[2.0, 0.1]], [[1.0, 1.0]]),
        (same_numbers(0.2), [[1.0, 0.1]], [[1.0, 0.3]]),
        (same_for_scale(0.2), [[1.1, 0.1]], [[1.3, 0.0]]),
    ],
)
def test_answers_are_compared(compare: object, near: object, far: object) -> None:
    assert callable(compare)
    expected: Answer = {"answer": np.array([[1.0, 0.0]])}
    assert compare(expected, {"answer": np.array(near)})
    for wrong in (far, [[1.0, 0.0]] * 2, [[float("nan"), 0.0]]):
        with pytest.raises(ValueError, match=r"cosine|difference|answer is"):
            compare(expected, {"answer": np.array(wrong)})
    with pytest.raises(ValueError, match="one gives"):
        compare(expected, {"other": np.array(near)})


def test_files_are_prepared_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.prepare("test_harness:writing", text="a")
    assert bench.prepare("test_harness:writing", text="a") == first
    assert (first / "file").read_text() == "a"
    assert bench.prepare("test_harness:writing", text="b") != first


def writing(folder: str, text: str) -> Work:
    def go() -> None:
        with (Path(folder) / "file").open("a") as file:
            file.write(text)

    return Work(go)


def test_the_table(tmp_path: Path) -> None:
    results = Results("quick", [{"cpu float32": 100.0}, {"cpu float32": 200.0}])
    good = Row("encode", "clipkit", "cpu", "float32", False, 10, "images", [1.0, 2.0, 4.0])
    good.flops, good.memory_mb, good.above_mb, good.ratios = 100.0, 500.0, 20.0, [1.0, 2.0, 3.0]
    good.against = "peer"
    results.rows = [
        good,
        Row("encode", "peer", "cpu", "float32", True, 10, "images", problem="not installed"),
    ]
    results.problems["search"] = "OSError: full"
    results.write(tmp_path / "benchmarks.json")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| clipkit | 5 | 2 (1 to 4) | 2.00 (0.46 to 7.22) | 25 % | 500 (+20) |  |" in text
    assert "| encode | 5 images/s | 2.00 (0.46 to 7.22), peer |  |  |" in text
    assert "| peer | not installed |" in text
    assert "Not measured: OSError: full" in text
    told = json.loads((tmp_path / "benchmarks.json").read_text())
    assert told["rows"][0]["share_of_ceiling"] == 0.25
    interval = told["rows"][0]["ratio_interval"]
    assert [round(interval[name], 2) for name in ("low", "median", "high")] == [0.46, 2.0, 7.22]
    assert "seconds_spread" not in told["rows"][1]
