"""Each job, at each scale, asks for contenders that exist and take what they are given."""

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.benchmarks.__main__ import JOBS
from tests.benchmarks.contenders import Contender
from tests.benchmarks.harness import Bench, Scale
from tests.benchmarks.inputs import make_captions, photos, write_photos
from tests.benchmarks.race import Race, Row


def check(function: str, given: dict[str, Any]) -> None:
    """Fail unless there is such a function, and it takes these keywords, which JSON can say."""
    module, _, name = function.partition(":")
    made = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
    inspect.signature(made).bind(**json.loads(json.dumps(given)))


class Planned(Bench):
    """Has nobody work, and checks who would."""

    def race(self, job: str, contenders: Sequence[Contender], **settings: Any) -> list[Row]:
        for contender in contenders:
            assert contender.command or contender.function
            if contender.function:
                check(contender.function, dict(contender.given))
        names = [contender.who for contender in contenders]
        assert len(set(names)) == len(names), job
        rows = Race(job, contenders, **settings).rows
        self.rows += rows
        return rows

    def prepare(self, function: str, *, imports: tuple[str, ...] = (), **given: Any) -> Path:
        check(function, {**given, "folder": "folder"})
        return self.folder


@pytest.mark.parametrize("scale", get_args(Scale))
@pytest.mark.parametrize("job", JOBS)
def test_contenders_exist(job: str, scale: Scale, tmp_path: Path) -> None:
    bench = Planned(tmp_path, scale, ("cpu", "cuda"))
    importlib.import_module(f"tests.benchmarks.{job}").run(bench)
    assert bench.rows
    assert any(not row.is_peer for row in bench.rows)
    if job != "growth":
        assert any(row.is_peer for row in bench.rows)


def test_pictures_and_captions_are_each_unlike_the_others(tmp_path: Path) -> None:
    work = write_photos(str(tmp_path), 40)
    assert work.go is not None
    work.go()
    files = photos(str(tmp_path / "images"))
    assert len({path.read_bytes() for path in files}) == 40
    assert 20_000 < files[0].stat().st_size < 300_000
    assert len(set(make_captions(1000))) == 1000
    lines = (tmp_path / "captions.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == [str(path) for path in files]
