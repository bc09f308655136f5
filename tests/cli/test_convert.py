from pathlib import Path

from tests.cli.conftest import Run


def test_a_conversion_and_what_is_refused(run: Run, saved: Path, photos: Path) -> None:
    out = photos.parent / "out"
    done = run("convert", saved, out, "--to", "onnx", "--data", photos)
    assert done.code == 0
    assert "compared on 18 images and" in done.out
    assert (out / "image_encoder.onnx").is_file()
    again = run("convert", saved, out, "--to", "onnx", "--data", photos)
    assert again.code == 2
    assert "is there already" in again.err
    assert run("convert", saved, photos.parent / "x", "--to", "open_clip").code == 2
