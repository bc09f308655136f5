"""`clipkit train`: fine-tune, or train from scratch."""

from typing import Annotated, Any

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a name of `clipkit recipes`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes, such as optim.lr=1e-4 epochs=20 out=runs/mine."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again where the folder holds a run already.")
    ] = False,
) -> None:
    """Train as a recipe says: scores before and after, a model folder, and all that led to it.

    A run that was stopped, by Ctrl-C, a kill or a crash, goes on with the same command.
    """
    from clipkit.report import terminal
    from clipkit.rounds import train as run
    from clipkit.train.watch import StepReport

    notes = terminal.notes()

    def on_start(parameters: dict[str, tuple[int, int]]) -> None:
        for part, (trained, still) in parameters.items():
            if trained + still:
                notes.print(f"{part.replace('_', ' ')}: {_share(trained, trained + still)}")

    with terminal.Bars() as bars:

        def on_progress(now: StepReport) -> None:
            told = (
                f"loss {now.loss:.3f}, scale {now.logit_scale:.1f}, {now.rate:.0f} pairs/s, "
                f"{terminal.clock(now.seconds_left)} left"
            )
            bars.show("training steps", now.step, now.steps, told)

        result = run(
            recipe,
            overrides or [],
            restart=restart,
            on_start=on_start,
            on_encode=bars.show,
            on_progress=on_progress,
            on_note=lambda note: notes.print(f"note: {note}", soft_wrap=True, highlight=False),
        )
    if not result.is_main_process:
        return
    out = terminal.out()
    if result.was_finished:
        out.print("this run was finished already; --restart begins it again")
    if result.metrics["after"]:
        out.print(terminal.before_after(result.metrics))
    if "rounds" in result.metrics:
        lines = [_round(told) for told in result.metrics["rounds"]]
        out.print(terminal.rows(["round", "pseudo-labels", "metric"], lines))
        out.print(f"kept   round {result.metrics['kept_round']}: {result.metrics['stopped']}")
    rejected = result.metrics["rejected"]
    if rejected:
        rows = f"{rejected} row{'s' * (rejected != 1)}"
        out.print(f"{rows} could not be used: {result.folder / 'rejects.jsonl'}")
    captions = result.metrics["captions"]
    if captions["cut"]:
        told = {"head": "their beginnings", "sentence": "one sentence", "pieces": "their pieces"}
        out.print(
            f"{captions['cut']:,} of {captions['seen']:,} captions have more than the"
            f" {result.model.context_length} tokens that the model reads, which was shown"
            f" {told[captions['long_captions']]} (data.long_captions: head, sentence or pieces)",
            soft_wrap=True,
        )
    model = result.folder / "model"
    out.print(f"run    {result.folder}  (recipe.yaml, metrics.json, log.jsonl)")
    out.print(f"model  {model}")
    out.print(f"next   clipkit classify PHOTOS --model {model} --labels cat,dog", soft_wrap=True)
    out.print(f"       clipkit embed PHOTOS --model {model} --out store", soft_wrap=True)


def _round(told: dict[str, Any]) -> list[str]:
    """Return the line of one round."""
    labels = told["counts"]["labels"].values() if "counts" in told else ()
    return [str(told["round"]), str(sum(labels)), f"{told['metric']:.4f}"]


def _share(trained: int, of: int) -> str:
    """Say how many of a part's parameters train."""
    if trained in (0, of):
        return f"{'none' if trained == 0 else 'all'} of {_count(of)} parameters train"
    return f"{trained:,} of {_count(of)} parameters train"


def _count(number: int) -> str:
    """Write a number, in millions from there on."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
