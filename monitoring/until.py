"""Read until when something holds: "3d", "8h", "2026-12-01", "2026-12-01T08:00Z"."""

import re
from datetime import UTC, datetime, timedelta

from tasks.common.errors import EvergreenError

SPAN = re.compile(r"(\d{1,4})\s*([hd])")
LONGEST = timedelta(days=3650)


def until_time(text: str, now: datetime | None = None) -> datetime:
    """The time that `text` names, in UTC; a date is its first moment. Raises EvergreenError for a past time."""
    now, wanted = now or datetime.now(UTC), text.strip()
    if span := SPAN.fullmatch(wanted):
        found = now + timedelta(**{_unit(span[2]): int(span[1])})
    else:
        try:
            found = datetime.fromisoformat(wanted)
        except ValueError:
            raise EvergreenError(
                f"{text[:60]!r} is not a time: expected hours or days (8h, 3d), a date (2026-12-01) or a date and time "
                "in UTC (2026-12-01T08:00)"
            ) from None
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if found <= now:
        raise EvergreenError(f"{found:%Y-%m-%d %H:%M} UTC has passed: name a time ahead of now")
    if found - now > LONGEST:
        raise EvergreenError(f"{found:%Y-%m-%d} is more than ten years ahead: was another date meant?")
    return found


def _unit(letter: str) -> str:
    return "hours" if letter == "h" else "days"
