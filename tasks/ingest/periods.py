"""What an ingest says of splits by time: the period of each split, and images without a time."""

from collections.abc import Sequence

from tasks.common.errors import DataError
from tasks.ingest.found import NewImage
from tasks.ingest.splits import GROWING, RecordedSplits


def require_times(offered: Sequence[NewImage], recorded: RecordedSplits) -> None:
    """Raise DataError if the splits of new images are to be decided by time and none of these images has one."""
    open_ = [new for new in offered if len(new.allowed) != 1 and new.group not in recorded.groups]
    if open_ and not any(new.taken_at for new in offered):
        raise DataError(
            f"data.split.by is time, but none of the {len(open_)} new images has a time, e.g. {open_[0].where}: "
            "bring times in a column taken_at or as {time} in the layout (data.time_format says how they are written), "
            "or set data.split.by to random"
        )


def period_notes(offered: Sequence[NewImage]) -> list[str]:
    """The period that each split got, and where images without a time went."""
    taken = [new for new in offered if new.taken and new.verdict in GROWING]
    periods = []
    for split in GROWING:
        times = [new.taken_at for new in taken if new.verdict == split and new.taken_at]
        if times:
            periods.append(f"{split} {min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} ({len(times)})")
    notes = [f"note: divided by time (data.split.by): {', '.join(periods)}"] if periods else []
    where = {split: sum(new.taken_at is None and new.verdict == split for new in taken) for split in GROWING}
    if any(where.values()):
        listed = ", ".join(f"{count} to {split}" for split, count in where.items() if count)
        notes.append(
            f"note: {sum(where.values())} new images have no time: {listed}. Without a time an image is trained on, "
            "unless its group, a near-duplicate or the source says otherwise"
        )
    return notes
