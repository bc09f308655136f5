import pytest

from clipkit.data import Dataset
from clipkit.errors import ConfigError, DataError
from clipkit.evaluate import EVALUATORS
from clipkit.evaluate.tasks import TASKS, Task
from clipkit.types import Sample

CAPTIONED = Dataset("c", [Sample("0", None, ("one",)), Sample("1", None, ("two",))])
LABELLED = Dataset("l", [Sample("0", None, label="a"), Sample("1", None, label="b")])
ONE_LABEL = Dataset("o", [Sample("0", None, label="a")])


def test_tasks_are_the_evaluators() -> None:
    assert set(TASKS) == set(EVALUATORS)


def test_captions_and_labels_decide_where_no_task_is_named() -> None:
    assert list(Task().evaluators(CAPTIONED, "c")) == ["retrieval"]
    assert list(Task().evaluators(LABELLED, "l")) == ["zero_shot"]
    with pytest.raises(DataError, match="mine has neither captions nor two labels"):
        Task().evaluators(ONE_LABEL, "mine")


def test_named_tasks_are_made_or_refused() -> None:
    every = Task(("geometry", "zero_shot", "linear_probe"), "plain", train=LABELLED)
    made = every.evaluators(LABELLED, "l")
    assert {name: type(each) for name, each in made.items()} == {
        name: EVALUATORS[name] for name in ("geometry", "zero_shot", "linear_probe")
    }
    for task, words in (("zero_shot", "no two labels"), ("linear_probe", "no labels")):
        with pytest.raises(DataError, match=f"mine has {words} that {task} needs"):
            Task((task,), train=LABELLED if task == "linear_probe" else None).evaluators(
                CAPTIONED, "mine"
            )
    with pytest.raises(DataError, match="no captions that retrieval"):
        Task(("retrieval",)).evaluators(LABELLED, "l")
    with pytest.raises(DataError, match="neither captions nor two labels that geometry"):
        Task(("geometry",)).evaluators(ONE_LABEL, "o")


def test_settings_that_do_not_fit_together() -> None:
    with pytest.raises(ConfigError, match="did you mean 'retrieval'"):
        Task(("retreival",))
    with pytest.raises(ConfigError, match="give --train"):
        Task(("linear_probe",))
    with pytest.raises(ConfigError, match="for --task linear_probe alone"):
        Task(("retrieval",), train=LABELLED)


def test_settings_tell_what_metrics_depend_on() -> None:
    assert Task().settings("retrieval") == {}
    assert Task(templates=("a {}",)).settings("zero_shot") == {"templates": ["a {}"]}
    assert Task(templates="plain").settings("zero_shot") == {"templates": "plain"}
    probe = Task(("linear_probe",), train=LABELLED, validation=ONE_LABEL).settings("linear_probe")
    assert probe == {"train": LABELLED.fingerprint(), "validation": ONE_LABEL.fingerprint()}
