"""The course of a run: where it is, what it scored, what it keeps, and where it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any

import torch
from torch import nn

from clipkit.errors import ConfigError, Interrupted
from clipkit.models.dual_encoder import DualEncoder
from clipkit.signals import StopSignals
from clipkit.train.checkpoint import (
    Checkpoints,
    CheckpointSettings,
    TrainState,
    read_state,
    restore_tensors,
    training_tensors,
)
from clipkit.train.feature_cache import FeatureCache
from clipkit.train.feed import Feed
from clipkit.train.kept import Kept, Selection
from clipkit.train.processes import told_by_main, wait_for_everyone
from clipkit.train.run_log import RunFolder
from clipkit.train.scores import Scores, Scoring, flatten, score
from clipkit.types import Reject

SAVE = 1
"""Processes pass on the signal that came, or this: by one's clock a checkpoint is due."""


@dataclass(frozen=True, slots=True)
class Scorings:
    """What is scored in a run.

    Attributes:
        all: before and after, and every so many steps where they say so.
    """

    all: Sequence[Scoring]

    @property
    def periodic(self) -> list[Scoring]:
        """Those that are scored in between as well."""
        return [scoring for scoring in self.all if scoring.every_steps]

    def periodic_and(self, prefix: str) -> list[Scoring]:
        """Those, and the one of a prefix."""
        return [some for some in self.all if some.every_steps or some.prefix == prefix]

    def due(self, step: int) -> list[Scoring]:
        """Return what is scored after a step."""
        return [scoring for scoring in self.periodic if step % scoring.every_steps == 0]


class Course:
    """Where a run is; it begins at step 0, or where its last checkpoint was.

    Args:
        model: what trains.
        feed: what it trains on.
        optimizer: what moves it.
        steps: of the whole run.
        scorings: what is scored.
        selection: what the run is judged by.
        settings: when to save.
        cache: encodes frozen towers once.
        run: the run folder.
        stop: what has been asked for by signals.
        identity: fingerprints of the data and of the model that the run begins with.
        views: what the run has for its views, whose state changes in training.
        tracker: Accelerate's, when there are trackers to report to.

    Attributes:
        first_logit_scale: the multiplier that the run began with.

    Raises:
        ConfigError: when the run in the folder began with other data or another model.
    """

    def __init__(
        self,
        model: DualEncoder,
        feed: Feed,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        scorings: Scorings,
        selection: Selection,
        settings: CheckpointSettings,
        cache: FeatureCache,
        run: RunFolder,
        stop: StopSignals,
        identity: tuple[str, str],
        views: nn.Module | None = None,
        tracker: Any = None,
    ) -> None:
        """Score the model, or put back what a checkpoint has."""
        self.model, self.feed, self.optimizer = model, feed, optimizer
        self.views = views
        self.first_logit_scale = model.logit_scale.item()
        self.steps, self.scorings, self.cache = steps, scorings, cache
        self.run, self.stop, self.tracker = run, stop, tracker
        self.checkpoints = Checkpoints(run.checkpoints, settings, writes=run.writes)
        path = told_by_main(self.checkpoints.latest() if run.writes else None)
        if path is None:
            run.cut_log(0)
            self.state = TrainState(*identity)
            run.log("start", data=identity[0], model=identity[1], rows=len(feed.data))
            with stop.at_once():
                self.state.before = score(model, scorings.all, cache)
            run.log("before", scores=self.state.before)
            self.track(flatten(self.state.before))
        else:
            self.state = read_state(path)
            self._check(identity)
            restore_tensors(path, model, optimizer, views=views)
            feed.skip(Reject(*parts) for parts in self.state.skipped)
            if feed.shorten is not None:
                feed.shorten.seen = self.state.captions_seen
                feed.shorten.cut = self.state.captions_cut
            run.cut_log(self.state.log_size)
        run.time("began", step=self.state.step, processes=feed.process_count)
        self.kept = Kept(model, self.state, selection, self.checkpoints)

    def _check(self, identity: tuple[str, str]) -> None:
        """Raise ConfigError where the run began with something else."""
        pairs = zip(("data", "model"), identity, (self.state.data, self.state.model), strict=True)
        changed = [f"{what}: {then} then, {now} now" for what, now, then in pairs if now != then]
        if changed:
            raise ConfigError(
                f"out: the run in {self.run.path} was stopped at step {self.state.step} and cannot"
                " go on with what has changed since; name another folder with out=FOLDER, or begin"
                " again with --restart",
                changed,
            )

    @property
    def ended(self) -> bool:
        """Whether all steps are taken, or patience is at its end."""
        return self.state.step >= self.steps or self.kept.stops

    def track(self, values: Mapping[str, float]) -> None:
        """Report numbers of this step to the trackers."""
        if self.tracker is not None:
            self.tracker.log(dict(values), step=self.state.step)

    def signal(self) -> int:
        """Return what this process has to tell the others before a step."""
        return self.stop.number or (SAVE if self.checkpoints.due(self.state.step + 1) else 0)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        if self.feed.shorten is not None:
            self.state.captions_seen = self.feed.shorten.seen
            self.state.captions_cut = self.feed.shorten.cut
        self.state.skipped = [[some.id, some.reason, some.where] for some in self.feed.skipped]
        self.state.log_size = self.run.log_size()
        tensors = training_tensors(self.model, self.optimizer, views=self.views)
        self.checkpoints.save(self.state, tensors)

    def go_on(self) -> None:
        """Score what was due when the run was stopped."""
        if self.state.step and not self.ended:
            due = self.scorings.due(self.state.step)
            if due:
                self.score(due)

    def after_step(self, signal: int) -> None:
        """Save, stop, score: whatever is due.

        Args:
            signal: what the processes agreed on.

        Raises:
            Interrupted: after saving, when a signal asked for it.
        """
        if self.feed.process_count == 1:  # nobody else has to agree
            signal = self.stop.number or signal
        due = self.scorings.due(self.state.step) if self.state.step < self.steps else []
        if signal or due or self.state.step == self.steps:
            self.save()
        if signal > SAVE:
            wait_for_everyone()  # a launcher ends them all when the first has left
            raise Interrupted(self._goes_on(signal), signal_number=signal)
        if due:
            self.score(due)

    def score(self, due: Sequence[Scoring]) -> None:
        """Score the model after a step that was saved, and keep its weights where they are better.

        Raises:
            Interrupted: when a signal asked for it.
        """
        scores = self._scores(due)
        self.run.log("scores", step=self.state.step, scores=scores)
        self.track(flatten(scores))
        self.kept.offer(self.model, scores)

    def finish(self) -> Scores:
        """Put the kept weights into the model, and return what they score."""
        best = self.kept.selection.best
        if best and not self.kept.stops:  # else this step was scored, and patience lost
            self.score(self.scorings.periodic_and(best.partition(".")[0]))
        self.kept.restore(self.model)
        self.model.eval()
        after = self._scores(self.scorings.all)
        self.run.log("after", step=self.state.kept_step, scores=after)
        self.track(flatten(after))
        return after

    def _scores(self, scorings: Sequence[Scoring]) -> Scores:
        """Score the model after a step that was saved; all processes go by the main one's."""
        try:
            with self.stop.at_once():
                scores = score(self.model, scorings, self.cache)
        except Interrupted as error:
            told = self._goes_on(error.signal_number)
            raise Interrupted(told, signal_number=error.signal_number) from None
        agreed: Scores = told_by_main(scores)
        return agreed

    def _goes_on(self, signal: int) -> str:
        return (
            f"stopped by {Signals(signal).name} at step {self.state.step} of {self.steps} and saved"
            f" in {self.run.path}: the same command goes on from there"
        )
