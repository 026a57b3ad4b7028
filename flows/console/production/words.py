"""Words and times of windows as people read them."""

from datetime import UTC, datetime

from monitoring.pages.render import gist

OUTCOMES = {
    "none": "all quiet",
    "watch": "watch",
    "label": "labels needed",
    "retrain": "retrain",
}
LONGEST = 140  # letters of a sentence before it is folded


def span(start: datetime, end: datetime) -> str:
    """ "21 Nov 2026, 12:00 to 12:15"; the end's day where it is another; seconds where the minutes are equal."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    first = f"{start.day} {start:%b %Y}"
    clock = (
        "%H:%M" if (start.hour, start.minute) != (end.hour, end.minute) or start.date() != end.date() else "%H:%M:%S"
    )
    if start.date() == end.date():
        return f"{first}, {start:{clock}} to {end:{clock}}"
    year = f" {end.year}" if start.year != end.year else ""
    return f"{first}, {start:%H:%M} to {end.day} {end:%b}{year} {end:%H:%M}"


def lasted(start: datetime, end: datetime) -> str:
    """ "3 days", "5 hours", "15 minutes"."""
    seconds = (end - start).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= 60):
            count = round(seconds / length)
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds:.0f} seconds"


def folded(sentence: str, most: int = LONGEST) -> tuple[str, str]:
    """(the sentence in at most `most` letters, all of it if that is not all, else "").

    What is left out is its middle: the beginning says what moved most, the end what was decided.
    """
    text = " ".join(sentence.split())
    if len(text) <= most:
        return text, ""
    for room in range(most, most // 2, -8):
        if len(short := gist(text, room)) <= most:
            return short, text
    return f"{text[: most - 1]}\u2026", text
