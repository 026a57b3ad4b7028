"""Until when: spans, dates and times as people write them."""

from datetime import UTC, datetime

import pytest

from monitoring.until import until_time
from tasks.common.errors import EvergreenError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8h", "2026-11-21 20:00"),
        ("3 d", "2026-11-24 12:00"),
        ("2026-12-01", "2026-12-01 00:00"),
        ("2026-12-01T08:30", "2026-12-01 08:30"),
        ("2026-12-01T08:30+02:00", "2026-12-01 06:30"),
        ("2026-12-01T08:30Z", "2026-12-01 08:30"),
    ],
)
def test_it_reads(text, found):
    assert f"{until_time(text, NOW):%Y-%m-%d %H:%M}" == found
    assert until_time(text, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "why"),
    [("tomorrow", "8h, 3d"), ("2026-11-21", "has passed"), ("0h", "has passed"), ("9999d", "ten years")],
)
def test_it_refuses(text, why):
    with pytest.raises(EvergreenError, match=why):
        until_time(text, NOW)
