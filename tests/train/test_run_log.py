import json
from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.train.run_log import RunFolder


def test_events_are_lines(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", recipe="a: 1\n")
    run.log("start", rows=3)
    run.log("step", loss=1.5)
    run.write_metrics({"before": {}})
    run.close()
    events = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "step"]
    assert events[1]["seconds"] >= events[0]["seconds"] >= 0
    assert (run.path / "recipe.yaml").read_text() == "a: 1\n"
    assert json.loads((run.path / "metrics.json").read_text()) == {"before": {}}


def test_a_run_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.write("old.txt", "x")
    first.close()
    with pytest.raises(ConfigError, match="--restart"):
        RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run", restart=True).close()
    assert not (tmp_path / "run" / "old.txt").exists()


def test_other_files_are_never_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(ConfigError, match="no run"):
            RunFolder(tmp_path, restart=restart)
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
