"""What an audit found, as tables for people."""

from collections.abc import Iterator, Sequence

from clipkit.data.audit import Audit, Captions, PartAudit, Repeats, Shared, Spread
from clipkit.report.score_table import percent

Lines = list[list[str]]

CLASSES = 8
"""The classes that are listed, most and least."""

_REASONS, _NAMED = 20, 3


def overview(found: Audit) -> tuple[list[str], Lines]:
    """Return the columns and lines of one table: a column for each part, a line for each number."""
    facts = [dict(_facts(part)) for part in found.parts]
    names = list(dict.fromkeys(name for part in facts for name in part))
    lines = [[name, *(part.get(name, "-") for part in facts)] for name in names]
    return ["", *(part.name for part in found.parts)], lines


def rejected(found: Audit) -> Lines:
    """Return reason, count and some of the rows, the commonest reasons first."""
    lines = []
    for part in found.parts:
        for reason, count in list(part.reasons.items())[:_REASONS]:
            places = [place["where"] or place["id"] for place in part.examples[reason]]
            lines.append([part.name, reason, f"{count:,}", _listed(places, count)])
    return lines


def repeated(found: Audit) -> Lines:
    """Return what recurs within a part, the largest groups."""
    lines = []
    for part in found.parts:
        for what, repeats in (("image", part.same_image), ("caption", part.same_caption)):
            for group in repeats.examples[:_NAMED]:
                told = f"{what} {group.what!r}" if group.what else what
                lines.append([part.name, told, f"{group.count:,}", _listed(group.ids, group.count)])
    return lines


def shared(found: Audit) -> Lines:
    """Return what each two parts have in common, where they have anything."""
    return [_shared(pair) for pair in found.shared if pair.images or pair.captions]


def classes(found: Audit) -> Lines:
    """Return the classes with the most rows and those with the fewest, a count for each part."""
    totals: dict[str, int] = {}
    for part in found.parts:
        for label, count in part.classes.items():
            totals[label] = totals.get(label, 0) + count
    ordered = sorted(totals, key=lambda label: (-totals[label], label))
    if len(ordered) > 2 * CLASSES:
        left = len(ordered) - 2 * CLASSES
        chosen = [*ordered[:CLASSES], f"({left} more)", *ordered[-CLASSES:]]
    else:
        chosen = ordered
    return [
        [
            label,
            *(f"{part.classes[label]:,}" if label in part.classes else "" for part in found.parts),
        ]
        for label in chosen
    ]


def _facts(part: PartAudit) -> Iterator[tuple[str, str]]:
    """Yield the numbers of one part, in the order of reading."""
    yield "rows that can be used", f"{part.usable:,}"
    whole = part.usable + part.rejected
    yield "rejected", f"{part.rejected:,} ({percent(part.rejected / max(whole, 1))})"
    yield "images", ", ".join(f"{count:,} {kind}" for kind, count in part.kinds.items()) or "-"
    yield "width in pixels", _spread(part.width)
    yield "height in pixels", _spread(part.height)
    if part.small is not None:
        yield "smaller than the model's square", _share(part.small, part.usable)
    for trait, count in part.traits.items():
        named = {"frames": "with several frames"}.get(trait, trait)
        yield f"images {named}", _share(count, part.usable)
    if part.captions is not None:
        yield from _captions(part.captions)
    yield "identical images", _repeats(part.same_image, "images")
    if part.captions is not None:
        yield "captions of several images", _repeats(part.same_caption, "captions")
    if part.classes:
        counts = list(part.classes.values())
        yield "classes", f"{len(counts):,} of {min(counts):,} to {max(counts):,} rows"
        if part.unlabelled:
            yield "rows without a label", _share(part.unlabelled, part.usable)


def _captions(captions: Captions) -> Iterator[tuple[str, str]]:
    yield "captions", f"{captions.count:,}"
    yield "captions of a row", _spread(captions.a_row)
    yield "words of a caption", _spread(captions.words)
    yield "longest caption", captions.longest
    if captions.cut is not None:
        name = f"captions cut at {captions.context_length} tokens"
        lost = f"; tokens lost: {_spread(captions.lost)}" if captions.lost else ""
        yield name, _share(captions.cut, captions.count) + lost


def _shared(pair: Shared) -> list[str]:
    examples = ", ".join(f"{first} = {second}" for first, second in pair.examples[:_NAMED])
    return [
        f"{pair.first} and {pair.second}",
        f"{pair.images:,}",
        f"{pair.captions:,}",
        f"{pair.pairs:,}",
        examples or "-",
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.greatest:
        return f"{spread.least:,}"
    return f"{spread.least:,} to {spread.greatest:,}, half below {spread.median:,}"


def _repeats(repeats: Repeats, what: str) -> str:
    if not repeats.groups:
        return "none"
    noun = what if repeats.groups > 1 else what[:-1]
    return f"{repeats.groups:,} {noun} in {repeats.rows:,} rows"


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / max(whole, 1))})" if count else "none"


def _listed(names: Sequence[str], count: int) -> str:
    told = ", ".join(names[:_NAMED])
    return f"{told}, …" if count > _NAMED else told
