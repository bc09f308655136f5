import re
import subprocess
import sys

from open_clip import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo

from clipkit.imagenet import imagenet_class_names, imagenet_templates


def test_there_are_a_thousand_names_and_eighty_templates() -> None:
    names, templates = imagenet_class_names(), imagenet_templates()
    assert len(set(names)) == 1000
    assert names[281] == "tabby cat"
    assert len(templates) == 80
    assert all(template.count("{}") == 1 for template in templates)


def test_only_the_second_of_two_same_names_is_changed() -> None:
    """The names that differ from open_clip's are ImageNet's own, which timm ships as well."""
    names, info = imagenet_class_names(), ImageNetInfo()
    changed = [at for at in range(1000) if names[at] != IMAGENET_CLASSNAMES[at]]
    assert changed == [744, 836]
    assert imagenet_class_names(unique=False) == tuple(IMAGENET_CLASSNAMES)
    for at in changed:
        assert IMAGENET_CLASSNAMES.count(IMAGENET_CLASSNAMES[at]) == 2
        assert names[at] == info.index_to_description(at).split(",")[0]


def test_the_order_is_that_of_imagenet() -> None:
    """Nearly every name has a word in common with timm's description of the same number."""
    names, info = imagenet_class_names(), ImageNetInfo()
    described = [info.index_to_description(at) for at in range(1000)]
    words = [set(re.findall("[a-z]+", text.lower())) for text in described]
    alike = [bool(words[at] & set(re.findall("[a-z]+", names[at].lower()))) for at in range(1000)]
    assert sum(alike) > 950


def test_open_clip_is_imported_when_the_names_are_asked_for() -> None:
    code = "import sys, clipkit.imagenet; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
