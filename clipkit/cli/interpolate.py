"""`clipkit interpolate`: models between one and its fine-tuned self, and which to take."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.cli.evaluate import tell
from clipkit.errors import ConfigError


def interpolate(
    base: Annotated[str, typer.Argument(help="The model before fine-tuning, such as starter.")],
    tuned: Annotated[str, typer.Argument(help="The model after: its folder, or the run folder.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Data it was tuned for, held out from training: where it gains. Repeatable."
        ),
    ],
    general: Annotated[
        list[str],
        typer.Option(help="Data on what must not be forgotten: where it loses. Repeatable."),
    ],
    alphas: Annotated[
        str,
        typer.Option(
            help="Shares of the way to score, such as 0,0.3,1, or start:stop:step, stop included."
        ),
    ] = "0:1:0.1",
    templates: Annotated[
        str | None, typer.Option(help="Prompts of zero-shot: none, plain, simple, imagenet.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Count the gain in this metric, such as text_to_image_r1; without it, the mean of"
            " mean_recall where there are captions and top1 where there are labels."
        ),
    ] = None,
    general_metric: Annotated[
        str | None,
        typer.Option(help="Count the loss in this metric; without it, in the same kind of mean."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Save the recommended model in this folder.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Save the model of this alpha instead; needs --save.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw gain against loss in this file (png, pdf or svg).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write all metrics of every alpha to this JSON file.")
    ] = None,
    max_rejected: Annotated[
        float, typer.Option(help="Largest share of rows that may be unusable.")
    ] = 0.01,
) -> None:
    """Find the model between two that keeps the gain of fine-tuning and forgets least.

    The weights (1 - alpha) BASE + alpha TUNED are scored for several alphas (WiSE-FT, arXiv
    2109.01903). The alpha with the least loss of those that keep 90 % of the gain is recommended.
    """
    from clipkit.data import Rejects, load_data
    from clipkit.evaluate.tasks import Task
    from clipkit.models import load
    from clipkit.models.storage import check_target
    from clipkit.report import terminal
    from clipkit.report.trade_off import check_plot, draw_trade_off
    from clipkit.train.feature_cache import FeatureCache
    from clipkit.train.interpolate import check_alpha, interpolated, parse_alphas
    from clipkit.train.scores import Scoring
    from clipkit.train.sweep import sweep

    shares = parse_alphas(alphas)
    if alpha is not None:
        check_alpha(alpha)
        if save is None:
            raise ConfigError("--alpha says which model --save writes: give --save too")
        shares = (*shares, alpha)
    if save is not None:
        check_target(save)
    if plot is not None:
        check_plot(plot)
    folder = _model_folder(tuned)
    before, after = load(base), load(folder)
    rejects = Rejects(max_rejected)
    fingerprints = {}
    scorings = []
    with terminal.Bars() as bars:
        for section, names in (("data", data), ("general", general)):
            for name in names:
                dataset = load_data(name, progress=bars.follow("drawing pictures"))
                rejects.rows += dataset.rejects
                fingerprints[name] = dataset.fingerprint()
                found = Task(templates=templates).evaluators(dataset, name)
                scorings += [
                    Scoring(section, f"{name} {task}", each) for task, each in found.items()
                ]
        cache = FeatureCache(report=bars.show, max_rejected=max_rejected)
        way = sweep(
            before,
            after,
            shares,
            scorings,
            cache=cache,
            metric=metric,
            general_metric=general_metric,
            on_progress=bars.follow("alphas"),
        )
    rejects.rows += cache.rejects.values()
    summary = way.summary()
    console = terminal.out()
    console.print(terminal.trade_off(summary))
    console.print(summary["words"], markup=False, soft_wrap=True)
    models = {"base": before.fingerprint(), "tuned": after.fingerprint()}
    tell({"models": models, "data": fingerprints, **summary}, rejects, out)
    if plot is not None:
        draw_trade_off(summary, plot)
        console.print(f"plot   {plot}", markup=False)
    if save is None:
        return
    chosen = summary["recommended"] if alpha is None else alpha
    if chosen is None:
        raise ConfigError(f"nothing is saved in {save}: no alpha is recommended; give --alpha")
    interpolated(before, after, chosen).save(str(save), training_data=_training_data(folder))
    console.print(f"model  {save}  (alpha {chosen:g})", markup=False)


def _model_folder(name: str) -> str:
    """Return the model of a run folder; other names are returned as they are."""
    from clipkit.models.storage import DESCRIPTION

    inside = Path(name) / "model"
    is_run = (inside / DESCRIPTION).is_file() and not (Path(name) / DESCRIPTION).is_file()
    return str(inside) if is_run else name


def _training_data(folder: str) -> list[str]:
    """Return the fingerprints of what a model was trained on, where its folder says so."""
    from clipkit.models.storage import DESCRIPTION, read_description

    if not (Path(folder) / DESCRIPTION).is_file():
        return []
    return list(read_description(Path(folder)).get("training_data", []))
