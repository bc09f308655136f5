"""Every block of the README runs, in order, as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
DOORS = [block for block in BLOCKS if "make " in block[1]]
RUN = [block for block in BLOCKS if "make " not in block[1]]


def command(kind: str, text: str) -> list[str]:
    """Return what runs a block: Python, or a shell that finds this environment's clipkit."""
    if kind == "python":
        return [sys.executable, "-c", text]
    return ["sh", "-euc", text]


def in_folder(folder: Path, blocks: list[tuple[str, str]]) -> list[str]:
    """Run blocks one after another in a folder; return what each wrote."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    written = []
    for kind, text in blocks:
        done = subprocess.run(
            command(kind, text),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        written.append(done.stdout)
    return written


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (README.parent / "Makefile").read_text()
    assert len(DOORS) == 1
    for line in DOORS[0][1].splitlines():
        assert re.search(rf"^{shlex.split(line)[1]}:", makefile, re.MULTILINE), line


def test_blocks_of_classify_and_search(tmp_path: Path) -> None:
    blocks = [block for block in RUN if "runs/" not in block[1]]
    assert [kind for kind, _ in blocks] == ["python", "sh"] * 3 + ["sh", "sh"]
    written = in_folder(tmp_path, blocks)
    for text, output in zip(blocks, written, strict=True):
        for line in text[1].splitlines():
            if " # " in line and line.startswith("print("):
                assert output.strip() == line.split(" # ")[1].strip(), line


@pytest.mark.slow
def test_blocks_of_training(tmp_path: Path) -> None:
    blocks = [block for block in RUN if "runs/" in block[1]]
    assert blocks
    written = in_folder(tmp_path, blocks)
    assert "Before and after" in written[0]
