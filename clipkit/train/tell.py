"""How a run goes, step by step: told to the terminal, the log and the trackers."""

from collections.abc import Callable

from clipkit.train.course import Course
from clipkit.train.diagnose import Sight, diagnose, diagnose_waiting, mean_cosine
from clipkit.train.step import StepAim
from clipkit.train.watch import StepReport, Watch


class Teller:
    """Tells the terminal, the log and the trackers how a run goes.

    Args:
        course: where the run is.
        duplicates: what duplicates are to one another.
        on_progress: told about the run about twice a second.
        on_note: told what is wrong with it.

    Attributes:
        watch: keeps the time.
    """

    def __init__(
        self,
        course: Course,
        *,
        duplicates: str,
        on_progress: Callable[[StepReport], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Start the clock."""
        self.course, self.duplicates, self.on_note = course, duplicates, on_note
        self.watch = Watch(
            course.state.step, course.steps, course.feed.batch_size, course.run, on_progress
        )
        self._waits = False

    def step(self, aim: StepAim, *, rate: float, norm: float, chance: float | None) -> None:
        """Tell about a step, as far as it is time to.

        Args:
            aim: its loss.
            rate: the learning rate.
            norm: of the gradient.
            chance: the loss of guessing, where it is known.
        """
        state, run = self.course.state, self.course.run
        loss = state.loss or 0.0
        scale = self.course.model.logit_scale.item()
        self.watch.tell(state.step, loss, scale)
        if not self.watch.logs(state.step):
            return
        values = {"loss": loss, "lr": rate, "logit_scale": scale, "gradient_norm": norm}
        if len(aim.terms) > 1:
            values.update({f"{name}_loss": value.item() for name, value in aim.terms.items()})
        run.log("step", step=state.step, **values)
        self.course.track(values)
        self._diagnose(aim, scale, chance)

    def _diagnose(self, aim: StepAim, scale: float, chance: float | None) -> None:
        """Say what is wrong, each once."""
        state, run = self.course.state, self.course.run
        seen = Sight(
            step=state.step,
            lowest_loss=state.lowest_loss,
            guess=chance,
            softmax=self.course.model.similarity == "softmax",
            logit_scale=scale,
            first_logit_scale=self.course.first_logit_scale,
            cosines={side: mean_cosine(features) for side, features in aim.sides().items()},
            duplicates=0.0 if aim.pairs is None else aim.pairs.positives.share(),
        )
        for name, sentence in diagnose(seen, duplicates=self.duplicates):
            if name not in state.notes:
                state.notes[name] = sentence
                run.log("note", step=state.step, note=sentence)
                self._note(sentence)
        watch = self.watch
        pairs = (state.step - watch.start) * watch.batch_size
        waits = diagnose_waiting(waited=watch.waited, seconds=watch.seconds(), pairs=pairs)
        if waits and not self._waits:
            self._waits = True
            run.time("note", step=state.step, note=waits)
            self._note(waits)

    def _note(self, sentence: str) -> None:
        if self.on_note is not None and self.course.run.writes:
            self.on_note(sentence)
