"""The job: from data and options to a folder of labels."""

from collections.abc import Sequence
from pathlib import Path

from clipkit.classify.labels import Labels
from clipkit.classify.other import Other
from clipkit.classify.pseudo_folder import check_pseudo_folder
from clipkit.classify.pseudo_labels import check_rule, guess
from clipkit.data.dataset import Dataset
from clipkit.data.load import load_data
from clipkit.data.rejects import Rejects
from clipkit.errors import ConfigError, did_you_mean
from clipkit.labelling.sure import make_classifier, make_sure
from clipkit.labelling.write import LABELLED, Asking, Labelled, Labelling, Rule
from clipkit.models import DualEncoder
from clipkit.types import PartProgress, Progress


def label(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    model: str | Path | DualEncoder = "starter",
    labels: Labels | None = None,
    templates: str | Sequence[str] | None = None,
    other: Other = None,
    fit: str | Path | Dataset | None = None,
    calibrate: str | Path | Dataset | None = None,
    min_confidence: float | None = None,
    top_per_class: int | None = None,
    labelled: Labelled = "skip",
    max_rejected: float = 0.01,
    progress: PartProgress | None = None,
) -> Labelling:
    """Label images that have no label, and write what came of it as data to be trained on.

    Self-training (Lee 2013; FixMatch, https://arxiv.org/abs/2001.07685): what a classifier is sure
    of becomes a label, with its confidence as a column. The folder has `labels.parquet`,
    `left_out.parquet`, `manifest.yaml` (what `load_data` takes), `label.json` and a contact sheet
    of each label, see `classify.pseudo_folder`. Equal calls write equal files.

    The confidence is a calibrated probability where there is something to calibrate on: the images
    of `calibrate`, else those of `fit`, each judged by a fit that left it out. Otherwise it is the
    model's own softmax, which `Labelling.confidence` says.

    Args:
        data: what `load_data` takes. Pictures that are among those of `fit` or `calibrate` get no
            label once more.
        out: the folder; one with labels in it is replaced.
        model: what `clipkit.load` takes, or a model; or a saved classifier, which has its labels.
        labels: as `ZeroShotClassifier` takes them; those of `fit` if `None`.
        templates: prompts, likewise; "simple" if `None`.
        other: what stands for none of the labels, likewise.
        fit: labelled images to fit the classifier on, a handful of each label.
        calibrate: other labelled images, to calibrate it on.
        min_confidence: the least that is kept, in [0, 1]; any if `None`.
        top_per_class: at most so many of each label, the surest.
        labelled: what becomes of rows that have a label: "skip" leaves them out, "keep" writes them
            among the others with a confidence of 1, "relabel" takes no notice of it.
        max_rejected: the largest share of rows that may be unusable.
        progress: told what is being encoded, and how far it is.

    Raises:
        ConfigError: an option that cannot be used, or a label that is none of the labels.
        DataError: the data cannot be read, nothing gets a label, or the folder holds something
            else.
        RejectedError: too many rows are unusable.

    Example:
        >>> told = clipkit.label("photos/", "pseudo/", labels=["cat", "dog"])  # doctest: +SKIP
        >>> clipkit.load_data(told.manifest)[0].metadata["confidence"]  # doctest: +SKIP
        0.93
    """
    check_rule(min_confidence, top_per_class)
    if labelled not in LABELLED:
        raise ConfigError(f"labelled: {labelled!r} is unknown{did_you_mean(labelled, LABELLED)}")
    Rejects(max_rejected)
    folder = Path(out)
    check_pseudo_folder(folder)
    dataset = load_data(data, progress=_part(progress, "drawing pictures"))
    fitted = None if fit is None else load_data(fit)
    sure = make_sure(
        make_classifier(model, labels, templates, other, fitted),
        fitted,
        None if calibrate is None else load_data(calibrate),
    )
    asking = Asking(dataset, sure, labelled)
    guesses = guess(
        sure.classifier,
        (dataset[at] for at in asking.rows),
        total=len(asking.rows),
        progress=_part(progress, "images"),
    )
    return asking.write(folder, guesses, Rule(min_confidence, top_per_class), max_rejected)


def _part(progress: PartProgress | None, what: str) -> Progress | None:
    """Return what tells how far one piece of work is."""
    return None if progress is None else lambda done, of: progress(what, done, of)
