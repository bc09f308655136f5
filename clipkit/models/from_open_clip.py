"""What clipkit takes from open_clip. The only import of open_clip."""


def imagenet_class_names() -> tuple[str, ...]:
    """Return the 1,000 ImageNet-1k class names in index order, as edited for CLIP's evaluation."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def imagenet_templates() -> tuple[str, ...]:
    """Return the 80 prompt templates of the CLIP paper (arXiv 2103.00020), `{}` for the name."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
