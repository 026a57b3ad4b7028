"""Text that people give, made safe for tables, sentences and terminals."""

import math
from collections.abc import Iterable
from typing import Any


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a sentence, the first few of them."""
    names = list(names)
    more = len(names) - most
    return ", ".join(plain(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def plain(text: str, most: int = 80) -> str:
    """User-given text on one line and bounded; who shows it as HTML escapes it there."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else text[: most - 1] + "…"


TEXT_LENGTH = 500  # characters of a source, annotator, slice name or value


def missing(value: Any) -> bool:
    """None and NaN (pandas writes it for empty cells)."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: Any) -> str | None:
    """A group, annotator or slice value as text; empty counts as absent."""
    if missing(value):
        return None
    found = printable(str(value)).strip()[:TEXT_LENGTH]
    return found or None


def printable(value: str) -> str:
    """`value` without the lone surrogates that undecodable file names carry (Parquet refuses them)."""
    return value if encodable(value) else value.encode("utf-8", "replace").decode()


def encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
