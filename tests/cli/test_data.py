import json
import shutil
from pathlib import Path

from PIL import Image

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


def test_an_audit_writes_what_it_prints(run: Run, corrupt: Path, saved: Path) -> None:
    out = corrupt.parent / "found"
    found = run("data", "audit", corrupt, "--model", saved, "--out", out, "--max-rejected", 0.1)
    assert found.code == 0
    assert "rows that can be used" in found.out
    assert "cannot identify image file" in found.out
    content = json.loads((out / "audit.json").read_text())
    assert content["rows"] == 18
    assert content["parts"][0]["captions"]["context_length"] == 16
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [reject["id"] for reject in rejects] == ["red1.png"]


def test_an_audit_fails_past_the_limit(run: Run, corrupt: Path, saved: Path) -> None:
    (corrupt / "red2.png").write_bytes(b"")
    out = corrupt.parent / "found"
    found = run("data", "audit", corrupt, "--model", saved, "--out", out)
    assert found.code == 1
    assert "2 rows rejected" in found.err
    assert (out / "audit.json").is_file()


def test_an_audit_compares_splits(run: Run, classes: Path, saved: Path) -> None:
    manifest = classes.parent / "mine.yaml"
    manifest.write_text(
        "name: mine\nsource: {kind: folder, root: .}\n"
        "splits: {train: {path: classes}, test: {path: again}}\n"
    )
    shutil.copytree(classes, classes.parent / "again")
    out = classes.parent / "found"
    found = run("data", "audit", manifest, "--model", saved, "--out", out)
    assert found.code == 0
    assert "mine@train and mine@test" in found.out
    shared = json.loads((out / "audit.json").read_text())["shared"]
    assert [pair["images"] for pair in shared] == [12]


def test_a_sheet_of_rows_and_of_rejects(run: Run, photos: Path) -> None:
    sheet = photos.parent / "deep" / "sheet.png"
    shown = run("data", "show", photos, "--out", sheet, "--rows", 7, "--columns", 3)
    assert shown.code == 0
    assert "7 of 18 rows" in shown.out
    with Image.open(sheet) as picture:
        assert picture.width == 3 * 190 + 10
    assert run("data", "show", photos, "--out", sheet, "--rejected").code == 2
    (photos / "red0.txt").write_text("")
    assert "1 of 1 rows" in run("data", "show", photos, "--out", sheet, "--rejected").out
    assert run("data", "show", photos, "--out", "sheet.gif").code == 2
