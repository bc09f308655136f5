"""Recipes in which nothing is wrong."""

from pathlib import Path

GOOD = """
model: starter
data: {train: openmoji@train}
optim: {lr: 1.0e-3}
evaluate:
  mine: {name: retrieval, data: openmoji@test}
"""

BOTH = """
model: starter
data: {train: openmoji@train}
evaluate:
  prompts: {name: zero_shot, data: openmoji@test, every_steps: 3}
  ends: {name: retrieval, data: openmoji@test}
  first: {name: retrieval, data: openmoji@test, every_steps: 5}
  second: {name: retrieval, data: openmoji@test, every_steps: 2}
general:
  others: {name: retrieval, data: openmoji@test, every_steps: 2}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path
