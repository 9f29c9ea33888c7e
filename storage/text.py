"""Text that every database can hold: without the characters that UTF-8 or PostgreSQL lacks, and of a limited size."""

from __future__ import annotations

import re
from typing import Any

# NUL, which PostgreSQL does not accept, and lone surrogates, which UTF-8 cannot hold: Python has them in file names
# that are not UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# The same in a line of JSON: escaped, or as bytes that Python's decoder accepts although they are not UTF-8.
_SUSPECT = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")

REASON_LIMIT = 2_000
TRACEBACK_LIMIT = 20_000


def may_be_unstorable(raw: bytes) -> bool:
    """Whether a line of JSON may hold characters that `storable` removes or replaces."""
    return _SUSPECT.search(raw) is not None


def storable(content: Any) -> Any:
    """The content of JSON without NUL, and with U+FFFD for each lone surrogate, in all its texts."""
    if isinstance(content, str):
        return _UNSTORABLE.sub(_replacement, content)
    if isinstance(content, dict):
        return {storable(key): storable(value) for key, value in content.items()}
    return [storable(value) for value in content] if isinstance(content, list) else content


def _replacement(found: re.Match[str]) -> str:
    return "" if found[0] == "\x00" else "\N{REPLACEMENT CHARACTER}"


def shortened(text: str, limit: int) -> str:
    """The text; of one longer than `limit` characters the head and the tail, with the number of characters between."""
    if len(text) <= limit:
        return text
    head = limit // 2
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters cut ...]\n{text[-tail:]}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 worker, 2 workers; `plural` if it does not end in s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
