"""ImageNet's class names and prompt templates, as open_clip ships them."""

_TWINS = {744: "projectile", 836: "sunglass"}


def imagenet_class_names(*, unique: bool = True) -> tuple[str, ...]:
    """Return the 1,000 ImageNet-1k class names in index order, as edited for CLIP's evaluation.

    Args:
        unique: tell apart the two that open_clip calls "missile" and the two "sunglasses": number
            744 is then "projectile" and number 836 "sunglass", as in CLIP's first list and as
            ImageNet has them.
    """
    from open_clip import IMAGENET_CLASSNAMES

    if not unique:
        return tuple(IMAGENET_CLASSNAMES)
    return tuple(_TWINS.get(at, name) for at, name in enumerate(IMAGENET_CLASSNAMES))


def imagenet_templates() -> tuple[str, ...]:
    """Return the 80 prompt templates of the CLIP paper (arXiv 2103.00020), `{}` for the name."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
