"""Several models on several data sets, from Python."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import clipkit
from clipkit.data import Dataset, load_data
from clipkit.errors import ClipkitError, ConfigError, DataError
from clipkit.evaluate import Geometry, Retrieval, ZeroShot
from clipkit.evaluate.run import evaluate
from clipkit.models.dual_encoder import DualEncoder
from clipkit.types import Sample
from tests.conftest import square


@pytest.fixture
def two(make_model: Callable[..., DualEncoder]) -> list[DualEncoder]:
    """Two models of one name."""
    return [make_model(0), make_model(1)]


def test_each_model_on_each_data_set(two: list[DualEncoder], photos: Path, classes: Path) -> None:
    found = evaluate(two, [photos, str(classes)])
    assert [(s.model, s.data, s.task) for s in found.scores] == [
        (name, str(data), task)
        for name in ("tiny", "tiny (2)")
        for data, task in ((photos, "retrieval"), (classes, "zero_shot"))
    ]
    for model, scores in zip(two, (found.scores[:2], found.scores[2:]), strict=True):
        assert scores[0].metrics == Retrieval(data=load_data(photos))(model)
        assert scores[1].metrics == ZeroShot(data=load_data(classes))(model)
        assert {score.model_fingerprint for score in scores} == {model.fingerprint()}
    assert (found.failures, found.kept) == ((), 0)


def test_the_package_is_callable(model: DualEncoder, photos: Path) -> None:
    found = clipkit.evaluate(model, load_data(photos), task=["geometry", "retrieval"])
    assert [score.task for score in found.scores] == ["geometry", "retrieval"]
    assert found.scores[0].metrics == Geometry(data=load_data(photos))(model)


def test_the_linear_probe_encodes_its_training_data_once(
    model: DualEncoder, classes: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(classes)
    other = Dataset("other", data.samples[::2])
    told: list[str] = []
    found = evaluate(
        model,
        [data, other],
        task="linear_probe",
        train=classes,
        progress=lambda what, done, total: told.append(f"{what} {done == total}"),
    )
    assert [score.data for score in found.scores] == ["classes", "other"]
    assert found.scores[0].metrics["penalty"] == found.scores[1].metrics["penalty"]
    assert told.count("images of classes True") == 2  # once to fit on, once to score
    assert told.count("images of other True") == 1


def test_what_fails_is_told_and_the_others_go_on(
    two: list[DualEncoder], photos: Path, tmp_path: Path
) -> None:
    bare = Dataset("bare", [Sample("a", None)])
    broken = Dataset("broken", [Sample("a", b"", ("one",)), Sample("b", b"", ("two",))])
    models: list[str | Path | DualEncoder] = ["no_such_model", two[0], tmp_path / "nowhere", two[1]]
    found = evaluate(models, [bare, "no_such_data", photos, broken])
    assert [(s.model, s.data) for s in found.scores] == [
        ("tiny", str(photos)),
        ("tiny (2)", str(photos)),
    ]
    assert len(found.failures) == 6
    told = "\n".join(found.failures)
    for words in ("bare has neither", "no_such_data", "no_such_model", str(tmp_path / "nowhere")):
        assert told.count(words) == 1
    assert told.count("on broken, retrieval: broken: none of its 2 rows") == 2


def test_nothing_scored_is_an_error(model: DualEncoder, photos: Path) -> None:
    bare = Dataset("bare", [Sample("a", None)])
    with pytest.raises(DataError, match="bare has neither"):
        evaluate(model, bare)
    with pytest.raises(ClipkitError, match=r"nothing could be scored:\n"):
        evaluate(["no_such_model", "no_other"], photos)
    with pytest.raises(ConfigError, match="no model is given"):
        evaluate([], photos)
    with pytest.raises(ConfigError, match="no data set is given"):
        evaluate(model, [])


def test_what_cannot_be_done_is_told_before_the_work(
    model: DualEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.evaluate.run.load_data", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "file").touch()
    for options, words in (
        ({"out": tmp_path}, "it is a folder; name a file"),
        ({"details": tmp_path / "file"}, "details: .* is no folder: File exists"),
        ({"details": tmp_path / "file" / "in"}, "details: .* is no folder: Not a directory"),
        ({"max_rejected": 2.0}, "max_rejected must be a share between 0 and 1, not 2.0"),
        ({"max_rejected": float("nan")}, "max_rejected must be a share between 0 and 1, not nan"),
    ):
        with pytest.raises(ConfigError, match=words):
            evaluate(model, photos, **options)


def test_a_second_call_computes_nothing_again(
    two: list[DualEncoder], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the second model: the first one's score is there, and the file ends the same."""
    out = tmp_path / "scores.json"
    (photos / "red1.png").write_bytes(b"not a picture")
    whole = evaluate(two, photos, max_rejected=0.2, out=tmp_path / "whole.json")
    called = 0
    real = Retrieval.__call__

    def stopped(self: Retrieval, model: DualEncoder, encoder: object = None) -> dict[str, float]:
        nonlocal called
        called += 1
        if called == 2:
            raise KeyboardInterrupt
        return real(self, model, encoder)  # type: ignore[arg-type]

    monkeypatch.setattr(Retrieval, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(two, photos, max_rejected=0.2, out=out)
    assert len(json.loads(out.read_text())["results"]) == 1
    found = evaluate(two, photos, max_rejected=0.2, out=out)
    assert (called, found.kept) == (3, 1)
    assert found.scores == whole.scores
    assert len(found.rejects()) == 1
    assert out.read_text() == (tmp_path / "whole.json").read_text()
    again = evaluate(two, photos, max_rejected=0.2, out=out)
    assert (called, again.kept, again.scores) == (3, 2, whole.scores)
    evaluate(two, photos, max_rejected=0.3, out=out)
    assert called == 5


def test_rejects_are_those_of_their_own_data(model: DualEncoder) -> None:
    """Of two sets of one name, one of which has a broken picture."""
    fine = Dataset("same", [Sample(str(at), square("red", at), (f"{at}",)) for at in range(3)])
    holed = Dataset("same", [*fine.samples, Sample("x", b"", ("x",))])
    found = evaluate(model, [holed, fine], max_rejected=0.5)
    assert [len(score.rejected) for score in found.scores] == [1, 0]
    assert [score.data for score in found.scores] == ["same", "same (2)"]


def test_details_lie_by_model_and_data(
    two: list[DualEncoder], classes: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "details", tmp_path / "scores.json"
    found = evaluate(two, classes, details=folder, out=out)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("classes.csv"))
    assert len(paths) == 2
    assert paths[0].parts[0].startswith("tiny")
    assert paths[0].parts[2] == "zero_shot"
    assert len({path.parts[0] for path in paths}) == 2
    (folder / paths[0]).unlink()
    again = evaluate(two, classes, details=folder, out=out)
    assert (folder / paths[0]).is_file()
    assert again.scores == found.scores
    assert evaluate(two, classes, out=out).kept == 2
