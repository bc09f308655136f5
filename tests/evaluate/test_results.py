import json
from dataclasses import replace
from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.evaluate.results import Evaluation, Kept, Score
from clipkit.types import Reject

SCORE = Score(
    "m", "d", "retrieval", {"mean_recall": 0.5}, "sha256:m", "sha256:d", {"a": [1]},
    (Reject("x", "no picture", "d"),),
)  # fmt: skip
OTHER = replace(SCORE, model="n", model_fingerprint="sha256:n", rejected=())


def test_what_was_written_is_found_under_the_names_of_now(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    Kept(path).write([SCORE, OTHER])
    kept = Kept(path)
    assert kept.find(replace(SCORE, metrics={}, rejected=())) == SCORE
    renamed = replace(SCORE, model="moved/m", metrics={})
    found = kept.find(renamed)
    assert found is not None
    assert (found.model, found.metrics) == ("moved/m", SCORE.metrics)


@pytest.mark.parametrize(
    "changed",
    [
        {"model_fingerprint": "sha256:x"},
        {"data_fingerprint": "sha256:x"},
        {"task": "geometry"},
        {"settings": {"a": [2]}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changed_is_not_found(tmp_path: Path, changed: dict[str, object]) -> None:
    Kept(tmp_path / "scores.json").write([SCORE])
    assert Kept(tmp_path / "scores.json").find(replace(SCORE, **changed)) is None  # type: ignore[arg-type]


def test_others_stay_until_the_command_is_done(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    Kept(path).write([SCORE])
    kept = Kept(path)
    kept.write([OTHER])
    assert Kept(path).find(SCORE) is not None
    kept.finish(Evaluation((OTHER,)))
    assert Kept(path).find(SCORE) is None
    assert Kept(path).find(OTHER) == OTHER


@pytest.mark.parametrize(
    "text", ["", '{"format": 0, "results": []}', '{"format": 1}', '{"metrics": {}}']
)
def test_scores_of_another_kind_are_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    kept = Kept(path)
    assert kept.find(SCORE) is None
    kept.write([SCORE])
    assert Kept(path).find(SCORE) == SCORE


@pytest.mark.parametrize("text", ["{", "[]", '{"image": "a"}\n{"image": "b"}', "a,b", "{}"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds something else than scores: name another file"):
        Kept(path)
    assert path.read_text() == text


def test_the_content_of_one_model_and_of_several() -> None:
    one = Evaluation((SCORE,), ("b failed",)).content()
    assert one["model"] == "sha256:m"
    assert one["metrics"] == {"d retrieval": {"mean_recall": 0.5}}
    assert one["data"] == {"d": "sha256:d"}
    assert one["rejected"] == {"no picture": 1}
    assert one["failures"] == ["b failed"]
    two = Evaluation((SCORE, OTHER)).content()
    assert "metrics" not in two
    assert two["models"] == {"m": "sha256:m", "n": "sha256:n"}
    assert [each["model"] for each in two["results"]] == ["m", "n"]
    json.dumps(two)
    again = replace(SCORE, task="geometry")
    assert len(Evaluation((SCORE, again)).rejects()) == 1


def test_nothing_is_kept_without_a_file_and_its_folder_must_be_there(tmp_path: Path) -> None:
    Kept(None).write([SCORE])
    assert Kept(None).find(SCORE) is None
    with pytest.raises(ConfigError, match="No such file or directory"):
        Kept(tmp_path / "none" / "scores.json")
    with pytest.raises(ConfigError, match="it is a folder; name a file in it"):
        Kept(tmp_path)
    if Path("/proc").is_dir():  # where nobody can make a file
        with pytest.raises(ConfigError, match="no file can be made in /proc"):
            Kept(Path("/proc/scores.json"))
