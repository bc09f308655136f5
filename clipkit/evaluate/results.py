"""Scores of models on data sets, and the file that keeps them from one command to the next."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from clipkit.errors import ConfigError
from clipkit.packages import replace_file
from clipkit.types import Reject

FORMAT = 1
"""Of the file, and of what the metrics mean: scores of another one are computed again."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one model scores on one data set in one task.

    Attributes:
        model: its name, as it was given.
        data: likewise the data set's.
        task: a key of `EVALUATORS`.
        metrics: by name; accuracies and recalls are shares in [0, 1].
        model_fingerprint: of everything that an embedding depends on.
        data_fingerprint: of the data's content.
        settings: what else the metrics depend on.
        rejected: rows of the data that could not be used.
    """

    model: str
    data: str
    task: str
    metrics: dict[str, float]
    model_fingerprint: str
    data_fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[Reject, ...] = ()

    def key(self) -> str:
        """Return what is equal for scores that need not be computed again."""
        what = [self.model_fingerprint, self.data_fingerprint, self.task, self.settings]
        return json.dumps([*what, self.data], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out of a call.

    Attributes:
        scores: model by model, in the order given.
        failures: sentences about what could not be scored.
        kept: how many of the scores were in the file already.
    """

    scores: tuple[Score, ...]
    failures: tuple[str, ...] = ()
    kept: int = 0

    def rejects(self) -> list[Reject]:
        """Return every row that could not be used, each once."""
        return list(dict.fromkeys(reject for score in self.scores for reject in score.rejected))

    def content(self) -> dict[str, Any]:
        """Return all of it as plain values, as `--out` and `--format json` have it.

        Of one model there are `model` and `metrics` besides, the latter by data set and task.
        """
        content: dict[str, Any] = {"format": FORMAT}
        if len({score.model for score in self.scores}) == 1:
            content["model"] = self.scores[0].model_fingerprint
            content["metrics"] = {f"{s.data} {s.task}": s.metrics for s in self.scores}
        content["models"] = {score.model: score.model_fingerprint for score in self.scores}
        content["data"] = {score.data: score.data_fingerprint for score in self.scores}
        content["results"] = [asdict(score) for score in self.scores]
        content["rejected"] = dict(Counter(r.reason for r in self.rejects()).most_common())
        content["failures"] = list(self.failures)
        return content


class Kept:
    """The file of scores.

    It is written after each score, so that a command that was stopped goes on; what the command did
    not ask for leaves the file when the command is done.

    Args:
        path: the file; nothing is kept when `None`.

    Raises:
        ConfigError: it cannot be written, or holds something else than scores.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what is there, if it was written for this."""
        if path is not None:
            _check_writable(path)
            _check_kind(path)
        self.path = path
        self._there = {score.key(): score for score in _read(path)} if path else {}

    def find(self, wanted: Score) -> Score | None:
        """Return the score of the same model, data, task and settings, under the names of now."""
        found = self._there.get(wanted.key())
        if found is None:
            return None
        return Score(**{**_fields(found), "model": wanted.model, "data": wanted.data})

    def write(self, scores: Sequence[Score], *, failures: Iterable[str] = ()) -> None:
        """Write scores, and what else was there before."""
        fresh = {score.key() for score in scores}
        rest = [score for key, score in self._there.items() if key not in fresh]
        self._write(Evaluation((*scores, *rest), tuple(failures)))

    def finish(self, evaluation: Evaluation) -> None:
        """Write what came out, and nothing else."""
        self._write(evaluation)

    def _write(self, evaluation: Evaluation) -> None:
        if self.path is not None:
            text = json.dumps(evaluation.content(), indent=2) + "\n"
            replace_file(self.path, text.encode())


def _check_writable(path: Path) -> None:
    """Raise ConfigError for a file that could not be written once all is computed."""
    if path.is_dir():
        raise ConfigError(f"{path} cannot be written: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: No such file or directory: {path.parent}")
    check_folder(path.parent, f"{path} cannot be written")


def _check_kind(path: Path) -> None:
    """Raise ConfigError for a file that has something in it which is no scores."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        content = json.loads(text) if text.strip() else {"metrics": {}}
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"metrics", "format"} & set(content):
        raise ConfigError(f"{path} holds something else than scores: name another file")


def check_folder(folder: Path, what: str) -> None:
    """Raise ConfigError for a folder in which no file can be made.

    Args:
        folder: it is there.
        what: how the sentence begins.
    """
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{what}: no file can be made in {folder}: {error.strerror}") from None


def _fields(score: Score) -> dict[str, Any]:
    return {name: getattr(score, name) for name in Score.__slots__}


def _read(path: Path) -> list[Score]:
    """Read scores; a file that has none of this format is one that will be written over."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return []
    try:
        return [
            Score(**{**each, "rejected": tuple(Reject(**row) for row in each["rejected"])})
            for each in content["results"]
        ]
    except (KeyError, TypeError):
        return []
