import json
from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.train.run_log import RunFolder


def test_events_are_lines(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", recipe="a: 1\n")
    run.log("start", rows=3)
    run.log("step", loss=1.5)
    run.time("step", step=1)
    run.write_metrics({"before": {}})
    run.close()
    events = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "step"]
    assert events[1] == {"event": "step", "loss": 1.5}
    (told,) = (run.path / "timings.jsonl").read_text().splitlines()
    assert json.loads(told)["seconds"] >= 0
    assert (run.path / "recipe.yaml").read_text() == "a: 1\n"
    assert json.loads((run.path / "metrics.json").read_text()) == {"before": {}}


def finished(path: Path) -> None:
    run = RunFolder(path, recipe="a: 1\n")
    run.write("old.txt", "x")
    run.write_metrics({})
    run.close()


def another(path: Path, differences: tuple[str, ...] = ("epochs: 1, not 2",)) -> RunFolder:
    return RunFolder(path, recipe="a: 2\n", differences=lambda _: differences)


def begun(path: Path) -> RunFolder:
    """Return a run that has a checkpoint."""
    run = RunFolder(path, recipe="a: 1\n", restart=True)
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    run.log("step")
    return run


def test_a_run_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--restart; it has\n  - epochs: 1, not 2"):
        another(tmp_path / "run")
    assert (tmp_path / "run" / "old.txt").exists()
    again = RunFolder(tmp_path / "run", restart=True)
    again.write_metrics({})
    again.close()
    assert not (tmp_path / "run" / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_comes_back_where_its_successor_fails(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    failing = RunFolder(tmp_path / "run", restart=True)
    failing.log("failed")
    failing.close()
    assert (tmp_path / "run" / "old.txt").is_file()
    assert (tmp_path / "run.failed" / "log.jsonl").is_file()
    killed = RunFolder(tmp_path / "run", restart=True)
    assert killed._log is not None
    killed._log.close()  # which is all that a kill does
    same = RunFolder(tmp_path / "run")
    assert same.finished
    same.close()
    assert (tmp_path / "run" / "old.txt").is_file()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    with pytest.raises(ConfigError, match="another recipe"):
        another(tmp_path / "run")
    same = another(tmp_path / "run", ())
    assert not same.finished
    assert (same.path / "recipe.yaml").read_text() == "a: 2\n"
    assert same.log_size() == len('{"event": "step"}\n')
    same.log("lost")
    same.cut_log(18)
    same.log("more")
    same.close()
    assert (same.path / "log.jsonl").read_text() == '{"event": "step"}\n{"event": "more"}\n'


def test_a_run_that_was_replaced_waits_for_its_successor(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    begun(tmp_path / "run").close()
    assert not (tmp_path / "run" / "old.txt").exists()
    another(tmp_path / "run", ()).close()
    assert (tmp_path / ".run.previous" / "old.txt").exists()
    begun(tmp_path / "run").close()
    assert (tmp_path / ".run.previous" / "old.txt").exists()
    last = another(tmp_path / "run", ())
    last.write_metrics({})
    last.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, restart: bool) -> None:
    finished(tmp_path / "run")
    going = RunFolder(tmp_path / "run", restart=True)
    going.log("step")
    with pytest.raises(ConfigError, match="a run is going on"):
        RunFolder(tmp_path / "run", restart=restart)
    going.write_metrics({"after": {}})
    going.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert '"step"' in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_run_that_left_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").close()
    RunFolder(tmp_path / "run").close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_files_are_never_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(ConfigError, match="no run"):
            RunFolder(tmp_path, restart=restart)
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_of_rounds_goes_on(tmp_path: Path) -> None:
    """Whose checkpoints are in its rounds."""
    run = RunFolder(tmp_path / "run", recipe="a: 1\n")
    (run.path / "round-0").mkdir()
    run.close()
    again = RunFolder(tmp_path / "run", recipe="a: 1\n")
    assert (run.path / "round-0").is_dir()
    again.close()
    with pytest.raises(ConfigError, match="another recipe"):
        another(tmp_path / "run")
