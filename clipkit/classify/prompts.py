"""Prompt templates: how a label becomes sentences for the text tower."""

from collections.abc import Callable, Sequence

from clipkit.data.label_captions import PLAIN
from clipkit.errors import ConfigError, did_you_mean
from clipkit.imagenet import imagenet_templates

TEMPLATES: dict[str, Callable[[], tuple[str, ...]]] = {
    "none": lambda: ("{}",),
    "plain": lambda: (PLAIN,),
    "simple": lambda: (
        "a photo of a {}.",
        "a photo of the {}.",
        "a picture of a {}.",
        "a good photo of a {}.",
        "a close-up photo of a {}.",
        "a photo of one {}.",
        "a {} in the scene.",
    ),
    "imagenet": imagenet_templates,
}
"""Named sets: the label alone, one sentence, seven, or the 80 of the CLIP paper."""


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates that a name stands for, or a list of them once it is checked.

    Args:
        templates: a key of `TEMPLATES`, one template, or a list of templates; each has one `{}`,
            which the label takes the place of.

    Raises:
        ConfigError: for an unknown name, no template, or one that has not exactly one `{}`.

    >>> resolve_templates(["a sketch of a {}"])
    ('a sketch of a {}',)
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]()
        if "{}" not in templates:
            hint = did_you_mean(templates, TEMPLATES)
            raise ConfigError(f"templates: {templates!r} is no named set and has no {{}}{hint}")
        templates = [templates]
    if not templates:
        raise ConfigError("templates: there is none; 'none' stands for the label alone")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(f"templates: {template!r} has not exactly one {{}} for the label")
    return tuple(templates)
