"""Labels as captions: fine-tune as pretrained (Goyal et al. 2022, https://arxiv.org/abs/2212.00638)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipkit.data.columnar import ColumnarSamples, spoken
from clipkit.data.dataset import Dataset
from clipkit.data.folder import unread_tables
from clipkit.errors import ConfigError, DataError
from clipkit.types import Reject, Sample

PLAIN = "a photo of a {}."
"""The caption of a label where neither a template nor a manifest says another."""

NEITHER = "neither caption nor label to train on"


def caption_labels(data: Dataset, templates: Sequence[str] = (), *, keep: bool = False) -> Dataset:
    """Give each row that has a label and no caption captions that say the label, one a template.

    They all say the same, see `Dataset.caption_key`: a loss that takes equal captions for positives
    is then the supervised one over labels (UniCL, https://arxiv.org/abs/2204.03610).

    Args:
        data: with captions, labels, or some of both.
        templates: each has one `{}` for the label; the first of the data's own when empty.
        keep: rows that have neither stay, for whatever needs no captions.

    Returns:
        The data without the rows that have neither, which are among its rejects, unless `keep`.

    Raises:
        ConfigError: a template has not exactly one `{}`.
        DataError: no row has a caption or a label.
    """
    templates = tuple(templates) or data.templates[:1] or (PLAIN,)
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"label_templates: {template!r} has not exactly one {{}} for the label"
            )
    data = replace(data, label_templates=templates)
    samples = data.samples
    if isinstance(samples, ColumnarSamples):
        if samples.captioned:
            return data
        good = samples.labelled()
        if keep and not good.any():
            return data
        if keep and not good.all():
            raise DataError(
                f"{data.name}: {int((~good).sum()):,} of its rows have no label; name a data set of"
                " its own for them (also), for they cannot be captioned"
            )
        lacking = [samples[int(row)] for row in np.flatnonzero(~good)]
        kept = samples if good.all() else samples.take(np.flatnonzero(good))
        return _with(data, kept.captioned_by(templates), lacking)
    captioned = [
        replace(sample, captions=spoken(sample.label, templates))
        if sample.label is not None and not sample.captions
        else sample
        for sample in samples
    ]
    if keep:
        return replace(data, samples=captioned)
    lacking = [sample for sample in captioned if not sample.captions]
    return _with(data, [sample for sample in captioned if sample.captions], lacking)


def _with(
    data: Dataset, samples: "list[Sample] | ColumnarSamples", lacking: list[Sample]
) -> Dataset:
    if not len(samples):
        what_else = unread_tables(data.name, lacking) or (
            "; name their column, or a split (NAME@SPLIT) where the data has several"
        )
        raise DataError(
            f"{data.name}: its {len(lacking):,} rows have neither captions nor labels to train on"
            f"{what_else}"
        )
    rejects = (*data.rejects, *(Reject(sample.id, NEITHER, data.name) for sample in lacking))
    return replace(data, samples=samples, rejects=rejects)
