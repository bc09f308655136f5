"""The public names, and that importing them costs nothing."""

import subprocess
import sys

import clipkit


def test_every_public_name_loads() -> None:
    for name in clipkit.__all__:
        assert getattr(clipkit, name) is not None
        assert name in dir(clipkit)
    assert callable(clipkit.train)
    assert callable(clipkit.embed)


def test_import_does_not_load_torch() -> None:
    heavy = "('torch', 'transformers', 'numpy', 'PIL')"
    code = f"import clipkit, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_does_not_load_torch() -> None:
    code = (
        "import clipkit.cli, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(clipkit, "no_such_name")
