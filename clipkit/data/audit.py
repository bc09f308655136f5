"""Look at all of a data set before training on it: what is in it, what is wrong, what recurs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int

from clipkit.data.dataset import Dataset, text_key
from clipkit.data.survey import Survey, take_survey
from clipkit.errors import DataError
from clipkit.sentences import CountTokens
from clipkit.types import PartProgress, Reject

EXAMPLES = 5
"""How many rows are named for each finding."""

Numbers = Int[np.ndarray, " values"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and greatest of some numbers."""

    least: int
    median: int
    greatest: int


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share something.

    Attributes:
        what: the caption that they share; empty for images.
        count: how many rows there are.
        ids: some of them.
    """

    what: str
    count: int
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Repeats:
    """What occurs more than once.

    Attributes:
        groups: how many different images or captions do.
        rows: how many rows have one of them.
        examples: the largest groups.
    """

    groups: int
    rows: int
    examples: list[Group]


@dataclass(frozen=True, slots=True)
class Captions:
    """What the captions of usable rows are like.

    Attributes:
        count: of captions.
        a_row: captions of a row.
        words: words of a caption, as spaces part them.
        context_length: tokens that the model at hand reads; `None` where no model is at hand.
        cut: captions that have more.
        lost: tokens that a cut caption loses.
        longest: id of the row with the longest caption.
    """

    count: int
    a_row: Spread
    words: Spread
    context_length: int | None
    cut: int | None
    lost: Spread | None
    longest: str


@dataclass(frozen=True, slots=True)
class PartAudit:
    """What one data set, or one split, is like.

    Attributes:
        name: of the data set, with its split.
        fingerprint: of its content.
        usable: rows that can be used.
        rejected: rows, lines and single captions that cannot.
        reasons: how often each reason occurs, the commonest first.
        examples: for each reason, some of the rows.
        kinds: how the images are stored, such as "JPEG RGB", the commonest first.
        traits: images that are rotated, transparent, or have several frames.
        width: of the upright images, in pixels.
        height: likewise.
        small: images whose shorter side is below what the model sees; `None` without a model.
        captions: `None` where no row has one.
        same_image: rows whose images are equal byte for byte.
        same_caption: rows of different images with the same caption, whatever its case and spaces.
        classes: usable rows of each label, the commonest first; labels without rows come last.
        unlabelled: usable rows without a label.
    """

    name: str
    fingerprint: str
    usable: int
    rejected: int
    reasons: dict[str, int]
    examples: dict[str, list[dict[str, str]]]
    kinds: dict[str, int]
    traits: dict[str, int]
    width: Spread | None
    height: Spread | None
    small: int | None
    captions: Captions | None
    same_image: Repeats
    same_caption: Repeats
    classes: dict[str, int]
    unlabelled: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What two data sets, or two splits, have in common.

    Attributes:
        first: name of the one.
        second: name of the other.
        images: rows of the second whose image is in the first.
        captions: rows of the second with a caption of the first.
        pairs: rows of the second whose image the first has with one of the same captions.
        examples: ids in the first and in the second of rows with the same image.
    """

    first: str
    second: str
    images: int
    captions: int
    pairs: int
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Audit:
    """What data sets are like, each by itself and against one another.

    Attributes:
        parts: one for each data set or split.
        shared: one for each two of them.
        rejects: every row that cannot be used.
    """

    parts: list[PartAudit]
    shared: list[Shared]
    rejects: list[Reject] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows in all: those that can be used, and what was rejected."""
        return sum(part.usable + part.rejected for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON; the rejects are counted in the parts."""
        return {
            "rows": self.rows,
            "parts": [asdict(part) for part in self.parts],
            "shared": [asdict(pair) for pair in self.shared],
        }


def audit(
    parts: Sequence[Dataset],
    *,
    count_tokens: CountTokens | None = None,
    context_length: int | None = None,
    resolution: int | None = None,
    progress: PartProgress | None = None,
) -> Audit:
    """Read and decode every image of some data sets, and say what was found.

    Args:
        parts: the data sets, or the splits of one.
        count_tokens: counts the tokens of captions, the special ones included, when none is cut.
        context_length: the most tokens of a caption that the model at hand reads.
        resolution: side in pixels of the square that it sees.
        progress: told the part's name, how many rows are done, and of how many.

    Raises:
        DataError: a row cannot be read for a reason that is not its own, such as a disk that hangs.
    """
    surveys = []
    for data in parts:
        told = None if progress is None else partial(progress, data.name)
        surveys.append(take_survey(data, count_tokens=count_tokens, progress=told))
    found = [_part(survey, context_length, resolution) for survey in surveys]
    shared = [_shared(first, second) for first, second in combinations(surveys, 2)]
    rejects = [r for survey in surveys for r in (*survey.data.rejects, *survey.rejects)]
    return Audit(found, shared, rejects)


def _part(survey: Survey, context_length: int | None, resolution: int | None) -> PartAudit:
    """Count what was seen of one data set."""
    data, images = survey.data, survey.images
    rejects = [*data.rejects, *survey.rejects]
    reasons = Counter(reject.reason for reject in rejects)
    widths, heights = (images[side].astype(np.int64) for side in ("width", "height"))
    small = None
    if resolution is not None:
        small = int((np.minimum(widths, heights) < resolution).sum())
    labels = images["label"][images["label"] >= 0]
    counts = np.bincount(labels, minlength=len(survey.labels))
    classes = Counter(dict.fromkeys(data.class_names, 0))
    classes.update({label: int(counts[number]) for label, number in survey.labels.items()})
    return PartAudit(
        name=data.name,
        fingerprint=survey.fingerprint(),
        usable=len(images),
        rejected=len(rejects),
        reasons=dict(reasons.most_common()),
        examples={
            reason: [_place(r) for r in rejects if r.reason == reason][:EXAMPLES]
            for reason, _ in reasons.most_common()
        },
        kinds=dict(survey.kinds.most_common()),
        traits={trait: count for trait, count in survey.traits.items() if count},
        width=_spread(widths),
        height=_spread(heights),
        small=small,
        captions=_captions(survey, context_length),
        same_image=_same_image(survey),
        same_caption=_same_caption(survey),
        classes=dict(classes.most_common()),
        unlabelled=int((images["label"] < 0).sum()),
    )


def _place(reject: Reject) -> dict[str, str]:
    return {"id": reject.id, "where": reject.where}


def _spread(values: Numbers) -> Spread | None:
    if not len(values):
        return None
    return Spread(int(values.min()), int(np.median(values)), int(values.max()))


def _captions(survey: Survey, context_length: int | None) -> Captions | None:
    captions, tokens = survey.captions, survey.tokens
    if not len(captions):
        return None
    a_row = np.bincount(captions["row"])[survey.images["row"]]
    cut, lost = None, None
    if context_length is not None and len(tokens):
        over = tokens[tokens > context_length] - context_length
        cut, lost = len(over), _spread(over)
    a_row_spread, words = _spread(a_row), _spread(captions["words"].astype(np.int64))
    if a_row_spread is None or words is None:
        raise DataError(f"{survey.data.name} changed while it was read")
    longest = int(captions["row"][captions["characters"].argmax()])
    return Captions(
        count=len(captions),
        a_row=a_row_spread,
        words=words,
        context_length=context_length if cut is not None else None,
        cut=cut,
        lost=lost,
        longest=survey.data[longest].id,
    )


def _same_image(survey: Survey) -> Repeats:
    rows = survey.images["row"].astype(np.int64)
    return _repeats(survey.data, survey.image_keys()[rows], rows)


def _same_caption(survey: Survey) -> Repeats:
    """Find captions that rows with different images share."""
    rows, keys = survey.captions["row"].astype(np.int64), survey.captions["key"]
    images = survey.image_keys()[rows]
    _, first = np.unique(np.stack([keys, images]), axis=1, return_index=True)
    return _repeats(survey.data, keys[first], rows[first])


def _repeats(data: Dataset, keys: Numbers, rows: Numbers) -> Repeats:
    """Group rows whose keys are equal; the largest groups are named."""
    order = np.lexsort((rows, keys))
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))  # keys are not negative
    counts = np.diff(starts, append=len(order))
    several = np.flatnonzero(counts > 1)
    firsts = rows[order[starts[several]]]
    examples = []
    for group in several[np.lexsort((firsts, -counts[several]))][:EXAMPLES]:
        members = order[starts[group] : starts[group] + counts[group]]
        samples = [data[int(row)] for row in rows[members[:EXAMPLES]]]
        key = int(keys[members[0]])
        captions = [text for text in samples[0].captions if text_key(text) == key]
        what = captions[0] if captions else ""
        examples.append(Group(what, int(counts[group]), [sample.id for sample in samples]))
    return Repeats(len(several), int(counts[several].sum()), examples)


def _shared(first: Survey, second: Survey) -> Shared:
    """Find what two data sets have in common."""
    keys = [survey.image_keys() for survey in (first, second)]
    rows = [survey.images["row"].astype(np.int64) for survey in (first, second)]
    images = np.isin(keys[1][rows[1]], keys[0][rows[0]])
    captions = np.isin(second.captions["key"], first.captions["key"])
    known = set(_pairs(first))
    pairs = [pair in known for pair in _pairs(second)]
    owners = second.captions["row"]
    where = {int(keys[0][row]): int(row) for row in rows[0][::-1]}
    examples = [
        (first.data[where[int(keys[1][row])]].id, second.data[int(row)].id)
        for row in rows[1][images][:EXAMPLES]
    ]
    return Shared(
        first.data.name,
        second.data.name,
        images=int(images.sum()),
        captions=len(np.unique(owners[captions])),
        pairs=len(np.unique(owners[np.array(pairs, dtype=bool)])),
        examples=examples,
    )


def _pairs(survey: Survey) -> list[tuple[int, int]]:
    """Return image and caption of each pair, as numbers."""
    captions = survey.captions
    images = survey.image_keys()[captions["row"].astype(np.int64)]
    return list(zip(images.tolist(), captions["key"].tolist(), strict=True))
