import re
from dataclasses import fields

import pytest

from clipkit.errors import ConfigError
from clipkit.recipe.settings import SECTIONS, DataSettings, Recipe


@pytest.mark.parametrize("kind", [Recipe, *SECTIONS.values()])
def test_every_key_is_explained(kind: type) -> None:
    """A recipe's reference is the docstrings of its settings."""
    attributes = (kind.__doc__ or "").partition("Attributes:")[2].partition("Raises:")[0]
    told = re.findall(r"^        (\w+): ", attributes, re.MULTILINE)
    assert sorted(told) == sorted(f.name for f in fields(kind))


def test_sections_are_keys_of_a_recipe() -> None:
    assert set(SECTIONS) < {f.name for f in fields(Recipe)}


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_label_template_has_one_place(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        DataSettings("photos", label_template=template)
