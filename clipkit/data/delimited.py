"""Lines of comma- or tab-separated values, where one broken line costs one row and no more."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager

from clipkit.data.decode import IMAGE_SUFFIXES

_LONGEST_FIELD = 2**31 - 1


def read_delimited(lines: list[str]) -> tuple[list[str], list[tuple[int, list[str] | str]]]:
    """Split lines into columns and records.

    Args:
        lines: the first that is not blank names the columns; the separator is that of comma,
            semicolon, tab and bar which parts it most.

    Returns:
        The names of the columns; and for each record the number of its first line with its fields,
        as many as there are columns, or the reason why it has none.
    """
    with _long_fields():
        first = next(index for index, line in enumerate(lines) if line.strip())
        separator = max(",;\t|", key=lambda mark: len(_record(lines, first, mark)[0]))
        header, used = _record(lines, first, separator)
        columns = [name.strip() for name in header]
        return columns, list(_records(lines, first + max(used, 1), separator, columns))


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be as long as they are: csv's own limit would lose a very long caption."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(
    lines: list[str], start: int, separator: str, columns: list[str]
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each record's line number and its fields, or the reason why it has none.

    A quote that is opened and never closed would swallow the lines that follow: such a line is
    given up, and reading goes on with the very next one.
    """
    at = start
    while at < len(lines):
        line, number = lines[at], at + 1
        if not line.strip() or "\0" in line:
            if line.strip():
                yield number, "NUL character in the line"
            at += 1
            continue
        head, found, rest = line.partition(separator)
        if len(columns) == 2 and found and not head.startswith('"') and not rest.startswith('"'):
            yield number, [head, rest]  # separators in an unquoted last column belong to its text
            at += 1
            continue
        fields, used = _record(lines, at, separator)
        swallowed = any(_is_row(line, separator, columns) for line in lines[at + 1 : at + used])
        if not used or swallowed:
            yield number, 'stray quote (")'
            at += 1
            continue
        if len(columns) == 2 and len(fields) > 2:
            fields = [fields[0], separator.join(fields[1:])]
        if len(fields) != len(columns):
            yield number, f"{'more' if len(fields) > len(columns) else 'fewer'} fields than columns"
        else:
            yield number, fields
        at += used


def _record(lines: list[str], at: int, separator: str) -> tuple[list[str], int]:
    """Return a record's fields and how many lines it spans; 0 lines where its quotes are off."""
    following = (lines[index] + "\n" for index in range(at, len(lines)))
    reader = csv.reader(following, delimiter=separator, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return [], 0


def _is_row(line: str, separator: str, columns: list[str]) -> bool:
    """Return whether a line inside a quoted field is a row of its own: one that names an image."""
    fields = line.split(separator)
    return len(fields) >= len(columns) and any(
        value.strip().strip('"').lower().endswith(IMAGE_SUFFIXES) for value in fields
    )
