"""Read times as people write them: ISO 8601, EXIF, Unix times, and one format that the user names.

A day first or a month first cannot be told apart (03.05.2026), so such a time is read only by a given format. A time
before 1990, on the first day of 2000 or after tomorrow is a clock that was reset: it is not the image's time.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from tasks.common.cells import is_missing
from tasks.common.written import tidy
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
COMPACT = {14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 8: "%Y%m%d"}  # digits -> form; never milliseconds
OLDEST = datetime(1990, 1, 1, tzinfo=UTC)  # digital cameras are younger
RESET = date(2000, 1, 1)  # what many clocks show after they lost power
RESET_CLOCK = "is the time of a clock that was reset"
EARLIEST = 1e8  # seconds: smaller numbers are years or counts rather than Unix times (March 1973)


@dataclass(frozen=True)
class Times:
    """How a source writes times; `written` as datetime.strptime reads it, `zone` such as Europe/Berlin."""

    written: str | None = None
    zone: str | None = None  # of times that name none; None: UTC
    latest: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(days=2), compare=False)

    def read(self, value: Any) -> datetime | None:
        """`value` in UTC; None for an empty one. Raises Unusable (bad_time)."""
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            return None
        try:
            found = self._parse(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=ZoneInfo(self.zone) if self.zone else UTC)
            local, found = found, found.astimezone(UTC)
        except (ValueError, OverflowError, OSError, TypeError):
            raise Unusable(
                "bad_time", f"{str(value)[:60]!r} is not a time: expected e.g. 2024-05-31T12:00:00Z"
            ) from None
        if not OLDEST <= found <= self.latest or RESET in (found.date(), local.date()):
            raise Unusable("bad_time", f"{str(value)[:60]!r} {RESET_CLOCK}")
        return found

    def is_reset(self, value: Any) -> bool:
        """Whether `value` can be read, but is the time of a clock that was reset."""
        try:
            self.read(value)
        except Unusable as error:
            return error.detail.endswith(RESET_CLOCK)
        return False

    def _parse(self, value: Any) -> datetime:
        if isinstance(value, datetime):
            return value
        if isinstance(value, date):
            return datetime.combine(value, time())
        if isinstance(value, str):
            text = tidy(value)
            text = re.sub(r"(?<=\d) ?(UTC|GMT)$", "+00:00", text)
            if self.written and (found := _by_format(text, self.written)):
                return found
            if text[4:5] == ":" and text[7:8] == ":":  # EXIF writes 2024:05:31 12:00:00
                text = text[:10].replace(":", "-") + text[10:]
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                if found := next(filter(None, (_by_format(text, form) for form in YEAR_FIRST)), None):
                    return found
                if text[:3].isalpha() and text[3:5] == ", ":  # Fri, 31 May 2024 12:00:00 +0000
                    return parsedate_to_datetime(text)
                value = float(text)
        if isinstance(value, int | float) and value == value // 1 and (found := _compact(str(int(value)))):
            return found
        if isinstance(value, bool) or not isinstance(value, int | float) or 0 < abs(value) < EARLIEST:
            raise TypeError
        magnitude = abs(value)
        units = next((unit for limit, unit in ((1e11, 1), (1e14, 1e3), (1e17, 1e6)) if magnitude < limit), 1e9)
        return datetime.fromtimestamp(value / units, UTC)


def _compact(digits: str) -> datetime | None:
    """20240531120000 and its shorter forms, which are numbers too."""
    form = COMPACT.get(len(digits))
    return _by_format(digits, form) if form and digits[:2] in ("19", "20") else None


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
