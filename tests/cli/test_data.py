from pathlib import Path

from clipkit.data import list_manifests
from tests.cli.conftest import Run


def test_the_list_and_one_of_it(run: Run, corrupt: Path) -> None:
    listed = run("data")
    assert listed.code == 0
    for name in list_manifests():
        assert name in listed.out
    one = run("data", "info", corrupt)
    assert one.code == 0
    assert "18" in one.out
    assert "sha256:" in one.out
    (corrupt / "red0.txt").write_text("")
    assert "1 row rejected: 1 empty caption" in run("data", "info", corrupt).out


def test_what_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run("data", "info", "openmojy").code == 2
    empty = run("data", "info", tmp_path)
    assert empty.code == 2
    assert "no images in" in empty.err
