from clipkit.packages import shipped_folder
from tests.cli.conftest import Run


def test_the_list_and_one_of_it(run: Run) -> None:
    listed = run("recipes").out
    for path in shipped_folder("recipes").glob("*.yaml"):
        assert path.stem in listed
        assert run("recipes", "show", path.stem).out == path.read_text()


def test_what_is_not_there(run: Run) -> None:
    assert "did you mean 'openmoji'" in run("recipes", "show", "openmojy").err
