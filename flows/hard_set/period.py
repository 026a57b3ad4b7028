"""The time that a person names: a window, a week, or days."""

from datetime import UTC, datetime, timedelta

from monitoring.journal import window_times
from tasks.common.errors import EvergreenError


def period_of(
    window: str | None = None, week: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> tuple[datetime | None, datetime | None]:
    """(start, end) of one of: the window, the week (2026-W47), the days [since, until). None: open.

    Raises EvergreenError for what is neither, and for more than one.
    """
    if sum([window is not None, week is not None, since is not None or until is not None]) > 1:
        raise EvergreenError("name one period: a window, a week, or days")
    if window is not None:
        if (times := window_times(window)) is None:
            raise EvergreenError(f"{window[:40]!r} is not the name of a window: /production lists them")
        return times
    if week is not None:
        try:
            start = datetime.strptime(f"{week}-1", "%G-W%V-%u").replace(tzinfo=UTC)
        except ValueError:
            raise EvergreenError(f"{week[:40]!r} is not a week: write it as 2026-W47") from None
        return start, start + timedelta(days=7)
    return (since and since.replace(tzinfo=UTC), until and until.replace(tzinfo=UTC))
