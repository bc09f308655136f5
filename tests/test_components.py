from dataclasses import dataclass

import pytest

from clipkit.components import check_component, check_options, filled


@dataclass(frozen=True)
class Cup:
    size: int
    colour: str = "white"
    handles: tuple[int, ...] = (1,)


def test_a_component_is_made_from_its_signature() -> None:
    problems: list[str] = []
    make, full = check_component({"cup": Cup}, {"name": "cup", "size": 3}, "drink", problems)
    assert not problems
    assert make() == Cup(3)
    assert full == {"name": "cup", "size": 3, "colour": "white", "handles": [1]}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"name": "cup"}, "drink.size: is required"),
        ({"name": "cop", "size": 1}, "did you mean 'cup'"),
        ({"name": "cup", "size": "big"}, "drink.size: input should be a valid integer"),
        ({"name": "cup", "size": 1, "color": "red"}, "did you mean 'colour'"),
        ({"size": 1}, "drink: needs a name; known: cup"),
        ("cup", "drink: needs a name"),
        ({"name": "os:no_such_thing"}, "is unknown"),
    ],
)
def test_problems_are_told(spec: object, word: str) -> None:
    problems: list[str] = []
    check_component({"cup": Cup}, spec, "drink", problems)
    assert len(problems) == 1
    assert word in problems[0]


def test_all_problems_of_one_section_are_told() -> None:
    problems: list[str] = []
    checked = check_options(Cup, {"size": "x", "colour": 4, "lid": 1}, "cup", problems)
    assert len(problems) == 3
    assert checked == {}
    assert filled(Cup, {"size": 2})["colour"] == "white"
