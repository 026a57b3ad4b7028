"""Read times as people write them: ISO 8601, EXIF, Unix times, and one format that the user names.

A day first or a month first cannot be told apart (03.05.2026), so such a time is read only by a given format.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from tasks.common.cells import is_missing
from tasks.sources.fields import Unusable

CLOCKS = ("", " %H:%M", " %H:%M:%S", "T%H:%M", "T%H:%M:%S", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
YEAR_FIRST = (
    *map("".join, product(("%Y/%m/%d", "%Y.%m.%d"), CLOCKS)),
    *("%Y-%m-%d_%H-%M-%S", "%Y-%m-%d %H-%M-%S"),
)
DATES = (
    *("%d.%m.%Y", "%m.%d.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y"),
    *("%d.%m.%y", "%m.%d.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y"),
)
ASKED = tuple(map("".join, product(DATES, CLOCKS)))  # formats that are proposed and never assumed
EARLIEST = 1e8  # seconds: smaller numbers are years or counts rather than Unix times (March 1973)


@dataclass(frozen=True)
class Times:
    """How a source writes times; `written` as datetime.strptime reads it, `zone` such as Europe/Berlin."""

    written: str | None = None
    zone: str | None = None  # of times that name none; None: UTC

    def read(self, value: Any) -> datetime | None:
        """`value` in UTC; None for an empty one. Raises Unusable (bad_time)."""
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            return None
        try:
            found = self._parse(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=ZoneInfo(self.zone) if self.zone else UTC)
            return found.astimezone(UTC)
        except (ValueError, OverflowError, OSError, TypeError):
            raise Unusable(
                "bad_time", f"{str(value)[:60]!r} is not a time: expected e.g. 2024-05-31T12:00:00Z"
            ) from None

    def _parse(self, value: Any) -> datetime:
        if isinstance(value, datetime):
            return value
        if isinstance(value, date):
            return datetime.combine(value, time())
        if isinstance(value, str):
            text = value.strip()
            if self.written and (found := _by_format(text, self.written)):
                return found
            if text[4:5] == ":" and text[7:8] == ":":  # EXIF writes 2024:05:31 12:00:00
                text = text[:10].replace(":", "-") + text[10:]
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                if found := next(filter(None, (_by_format(text, form) for form in YEAR_FIRST)), None):
                    return found
                value = float(text)
        if isinstance(value, bool) or not isinstance(value, int | float) or 0 < abs(value) < EARLIEST:
            raise TypeError
        magnitude = abs(value)
        return datetime.fromtimestamp(value / (1 if magnitude < 1e11 else 1e3 if magnitude < 1e14 else 1e6), UTC)


def _by_format(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def fitting_formats(texts: Iterable[str]) -> list[str]:
    """The formats of ASKED that read all `texts`, e.g. %d.%m.%Y."""
    found = list(ASKED)
    for text in texts:
        found = [form for form in found if _by_format(text.strip(), form)]
    return found
