"""Everything that the page of a run shows in tables, as rows of one CSV file."""

from collections.abc import Iterator

from flows.console.releases.run_page import RunPage
from monitoring.plain_names import plain_name

COLUMNS = ("kind", "what", "value", "low", "high", "before", "change", "n", "note")


def table(found: RunPage) -> Iterator[tuple]:
    """A row for each check, figure, class, cell of the confusion table, and change; values as they are stored."""
    for row in found.checks:
        check = row["check"]
        note = f"{check.status}: {check.detail}"
        yield "check", plain_name(check.name), check.value, check.low, check.high, None, None, None, note
    report = found.report
    if report is None:
        return
    for row in report["rows"]:
        what = f"{row['group']}: {row['name']}"
        yield "figure", what, row["new"], row["low"], row["high"], row["old"], row["change"], row["n"], row["trend"]
    for row in report["recalls"]:
        shot = f"{row['shot']}-shot, {row['train']} training images"
        yield "recall", row["class"], row["new"], row["low"], row["high"], row["old"], None, row["n"], shot
    if confusion := report["confusion"]:
        for row in confusion["rows"]:
            for said, cell in zip(confusion["names"], row["cells"], strict=True):
                if cell["n"]:
                    what = f"{row['name']} taken for {said}"
                    yield "confusion", what, cell["share"], None, None, None, None, cell["n"], ""
    for one in report["refused"]:
        yield "refused file", one["where"], None, None, None, None, None, None, f"{one['reason']}: {one['detail']}"
    if changes := report["changes"]:
        for split, before, now in changes["splits"]:
            yield "labelled images", split, now, None, None, before, now - before, None, ""
        for name, before, now in changes["classes"]:
            yield "training labels", name, now, None, None, before, now - before, None, ""
        for path, before, now in changes["params"]:
            yield "setting", path, str(now), None, None, str(before), None, None, ""
        for batch in changes["batches"]:
            note = f"{batch['kind']}{', new' if batch['new'] else ''}"
            yield "batch", batch["batch"], None, None, None, None, None, batch["accepted"], note
