"""Zero-shot classification with labels made up on the spot."""

from clipkit.classify.prompts import TEMPLATES, resolve_templates
from clipkit.classify.zero_shot import ZeroShotClassifier

__all__ = ["TEMPLATES", "ZeroShotClassifier", "resolve_templates"]
