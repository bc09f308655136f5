"""Text as files have it: JSON objects, captions a line, names that can be written again."""

import json
import re
from typing import Any

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(content: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that a text spells, or `None` if it is broken or something else.

    Half a surrogate pair is no character, cannot be written anywhere, and counts as broken.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        found = json.loads(text)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text, which end at \n, \r\n or \r.

    `str.splitlines` would also cut at characters that captions from the web have within a line.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def caption_lines(text: str) -> list[str]:
    """Return the captions of a text that has one a line, or one empty caption if it has none."""
    return [line for line in split_lines(text) if line.strip()] or [""]


def take_captions(fields: dict[str, Any]) -> list[Any]:
    """Take `caption` and `captions` out of an object; return what they hold, one after another."""
    values = [fields.pop(key) for key in ("caption", "captions") if key in fields]
    told: list[Any] = []
    for value in [value for value in values if value is not None] or values[:1]:
        told += value or [None] if isinstance(value, list) else [value]
    return told


def readable(name: str) -> str:
    r"""Return a name as text that can be written: bytes that are not UTF-8 become \udcNN.

    >>> readable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return name.encode("utf-8", "backslashreplace").decode()
