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


@pytest.mark.parametrize("templates", ["a {} of {}", ["{}", "a photo"], "plane"])
def test_label_templates_are_checked(templates: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^data.label_templates: '(a|plane)"):
        DataSettings("photos", label_templates=templates)
    assert DataSettings("photos", label_templates="imagenet").label_templates == "imagenet"
