from clipkit.models.from_open_clip import imagenet_class_names, imagenet_templates


def test_there_are_a_thousand_names_and_eighty_templates() -> None:
    names, templates = imagenet_class_names(), imagenet_templates()
    assert len(names) == 1000
    assert names[281] == "tabby cat"
    assert len(templates) == 80
    assert all(template.count("{}") == 1 for template in templates)
