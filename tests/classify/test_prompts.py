import pytest

from clipkit.classify.prompts import TEMPLATES, resolve_templates
from clipkit.errors import ConfigError


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_named_sets_have_one_place_each(name: str) -> None:
    templates = resolve_templates(name)
    assert templates
    assert all(template.count("{}") == 1 for template in templates)


def test_a_template_and_a_list() -> None:
    assert resolve_templates("a sketch of a {}") == ("a sketch of a {}",)
    assert resolve_templates(["{}", "the {}"]) == ("{}", "the {}")


@pytest.mark.parametrize(
    ("templates", "word"),
    [
        ("plian", "did you mean 'plain'"),
        ([], "there is none"),
        (["{} {}"], "exactly one"),
        (["x"], "'x'"),
    ],
)
def test_what_cannot_be_used(templates: str | list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve_templates(templates)
