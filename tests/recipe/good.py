"""A recipe in which nothing is wrong."""

from pathlib import Path

GOOD = """
model: starter
data: {train: openmoji@train}
optim: {lr: 1.0e-3}
evaluate:
  mine: {name: retrieval, data: openmoji@test}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path
