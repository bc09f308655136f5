from pathlib import Path

import pytest

from clipkit.cli.recipes import read_head
from clipkit.errors import ConfigError
from clipkit.packages import shipped_folder
from tests.cli.conftest import Run

HEAD = """\
# Teach nothing.
#
#   clipkit train nothing && echo
#
# Needs: time.
# When:  never: a rock
# Time:  1 hour
# A note. Time: is not here
model: starter
# Needs: not the head any more
"""


def test_the_list_and_one_of_it(run: Run) -> None:
    listed = run("recipes").out
    for path in shipped_folder("recipes").glob("*.yaml"):
        assert path.stem in listed
        assert run("recipes", "show", path.stem).out == path.read_text()


def test_what_is_not_there(run: Run) -> None:
    assert "did you mean 'openmoji'" in run("recipes", "show", "openmojy").err


def test_the_table_of_recipes_is_up_to_date(run: Run) -> None:
    """If not: clipkit recipes --markdown > recipes/README.md."""
    readme = (shipped_folder("recipes") / "README.md").read_text(encoding="utf-8")
    assert run("recipes", "--markdown").out == readme
    for path in shipped_folder("recipes").glob("*.yaml"):
        head = read_head(path)
        row = next(line for line in readme.splitlines() if f"[{path.stem}]({path.name})" in line)
        for cell in (head.what, head.needs, head.when, head.time):
            assert cell in row
        assert head.command in readme


def test_a_head_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "nothing.yaml"
    path.write_text(HEAD)
    head = read_head(path)
    assert (head.what, head.command) == ("Teach nothing.", "clipkit train nothing && echo")
    assert (head.needs, head.when, head.time) == ("time", "never: a rock", "1 hour")
    path.write_text(HEAD.replace("# Needs: time.\n", "").replace("#   clipkit", "# clipkit"))
    with pytest.raises(ConfigError, match=r"lacks the command, indented, Needs:"):
        read_head(path)
