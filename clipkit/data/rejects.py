"""The list of rows that could not be used, and the limit on how many there may be."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from clipkit.errors import ConfigError, RejectedError
from clipkit.packages import replace_file
from clipkit.types import Reject

ROWS_BEFORE_CHECK = 100
"""While rows are still coming, the share of rejects is judged only after this many."""


class Rejects:
    """Rows that cannot be used, each with its reason: one policy for all three jobs.

    Args:
        max_rejected: share of all rows, between 0 and 1, that may be rejected.
        rows: rejects known already, such as those of reading the data set.

    Attributes:
        rows: the rejects, in the order they were added.

    Raises:
        ConfigError: `max_rejected` is not between 0 and 1.

    >>> rejects = Rejects()
    >>> rejects.add(Reject("a.jpg", "file not found"))
    >>> rejects.summary()
    '1 row rejected: 1 file not found'
    """

    def __init__(self, max_rejected: float = 0.01, rows: Iterable[Reject] = ()) -> None:
        """Start with an empty list, or with the rejects that are known already."""
        if not 0 <= max_rejected <= 1:
            raise ConfigError(f"max_rejected must be a share between 0 and 1, not {max_rejected}")
        self.max_rejected = max_rejected
        self.rows: list[Reject] = list(rows)

    def __len__(self) -> int:
        """Return how many rows were rejected."""
        return len(self.rows)

    def add(self, reject: Reject) -> None:
        """List one row."""
        self.rows.append(reject)

    def reasons(self) -> list[tuple[str, int]]:
        """Return each reason and its count, the commonest first."""
        return Counter(reject.reason for reject in self.rows).most_common()

    def summary(self) -> str:
        """Return one line such as `3 rows rejected: 2 file not found, 1 empty caption`."""
        if not self.rows:
            return "no rows rejected"
        reasons = self.reasons()
        told = ", ".join(f"{count} {reason}" for reason, count in reasons[:5])
        more = f", {len(reasons) - 5} more reasons" if len(reasons) > 5 else ""
        return f"{len(self.rows)} row{'s' * (len(self.rows) != 1)} rejected: {told}{more}"

    def check(self, total: int, *, final: bool = False) -> None:
        """Stop the work when too large a share of the rows was rejected.

        Args:
            total: rows met so far, the rejected ones included.
            final: all rows were met; until then fewer than 100 rows are not judged.

        One rejected row is always allowed, unless `max_rejected` is 0 or nothing else is there.

        Raises:
            RejectedError: more than `max_rejected` of `total` were rejected, or all of them.
        """
        if not self.rows or (not final and total < ROWS_BEFORE_CHECK):
            return
        allowed = max(self.max_rejected * total, 1 if self.max_rejected > 0 else 0)
        if len(self.rows) <= allowed and (len(self.rows) < total or not final):
            return
        first = self.rows[0]
        place = f" in {first.where}" if first.where else ""
        raise RejectedError(
            f"{self.summary()}, of {total} met; max_rejected is {self.max_rejected:g}; "
            f"the first is {first.id!r}{place}; mend the rows or raise max_rejected"
        )

    def write(self, path: Path) -> None:
        """Write the list as JSON lines with `id`, `reason` and `where`; the file appears whole."""
        lines = (
            json.dumps({"id": row.id, "reason": row.reason, "where": row.where}, ensure_ascii=False)
            for row in self.rows
        )
        text = "".join(line + "\n" for line in lines)
        replace_file(path, text.encode(errors="backslashreplace"))  # names that are not UTF-8
