import inspect

from clipkit import errors
from clipkit.errors import ClipkitError, ConfigError, MissingExtraError, did_you_mean


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in drawn
            assert issubclass(value, ClipkitError)


def test_config_error_lists_every_problem() -> None:
    error = ConfigError("two problems:", ["first", "second"])
    assert str(error) == "two problems:\n  - first\n  - second"
    assert error.problems == ("first", "second")


def test_missing_extra_names_the_pip_line() -> None:
    error = MissingExtraError("the starter model", "starter")
    assert 'pip install "clipkit[starter]"' in str(error)


def test_did_you_mean_suggests_or_lists() -> None:
    assert did_you_mean("retreival", ["retrieval", "zero_shot"]) == "; did you mean 'retrieval'?"
    assert did_you_mean("xyz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("xyz", []) == ""
