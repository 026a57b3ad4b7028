"""`evergreen score`: answer a folder, manifest or S3 prefix with the live model; log it.

Model, preprocessing and log are those of serving. If the source says when an image was taken, that is the time of the
answer; scoring the same source again with the same model then leaves the log unchanged. Only a few images are in memory
at once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.production import scored
from flows.project.ingest import chosen_layout, on_disk
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import Params
from tasks.common.progress import track
from tasks.sources.offered import Offered
from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tasks.sources.times import Times

HOUR = timedelta(hours=1)
BATCH = 64  # images predicted at once
BUFFER_ROWS, BUFFER_BYTES = 4096, 64 << 20  # answers in memory before they are written, one file per hour of time


@dataclass
class Summary:
    """The result of one scoring."""

    version: str
    provisional: str | None = None  # why the live model is provisional; None: it is not
    at: datetime | None = None  # of images that name no time
    shuffle_hours: float = 0.0  # before `at`, over which their times are spread
    untimed: int = 0  # images that name no time
    rows: int = 0  # logged, including unreadable images
    classes: Counter = field(default_factory=Counter)  # predicted class -> images
    needs_review: int = 0  # uncertain or unfamiliar
    unfamiliar: int = 0  # out of distribution
    unreadable: Counter = field(default_factory=Counter)  # reason -> images
    bad_times: list[str] = field(default_factory=list)  # times that cannot be read, as written
    examples: list[str] = field(default_factory=list)  # of unreadable images, for people

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        found = [f"{self.version} answered {self.rows} images; the answers are in the production log"]
        if self.provisional:
            found.append(f"  {self.version} is provisional: {self.provisional}. Take its answers as suggestions.")
        width = max(map(len, self.classes), default=0)
        found += [f"  {name:<{width}}  {count:>7}" for name, count in self.classes.most_common()]
        found.append(f"  worth a review: {self.needs_review} ({self.unfamiliar} of them unlike the training images)")
        if self.untimed:
            when = f"{self.at:%Y-%m-%d %H:%M:%S} UTC"
            spread = f"times spread at random over the {self.shuffle_hours:g} h before {when}"
            found.append(f"  {self.untimed} without a time: {spread if self.shuffle_hours else f'logged as of {when}'}")
            found.append("    a folder's order is not that of time: --at-column, --at, --shuffle-time say when")
        if self.bad_times:
            count = f"{len(self.bad_times)} times cannot be read, e.g. {self.bad_times[0]!r}"
            found.append(
                f"  {count}: these answers have the time of now (a clock that was reset, or say data.time_format)"
            )
        if self.unreadable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.unreadable.items()))
            found += [f"  unreadable: {reasons}", *(f"    {line}" for line in self.examples)]
        return found


def score(
    root: Path,
    source: str,
    *,
    name: str | None = None,
    at_column: str | None = None,
    source_column: str | None = None,
    key_column: str | None = None,
    slice_columns: Sequence[str] = (),
    layout: str | None = None,
    at: datetime | None = None,
    shuffle_hours: float = 0.0,
) -> Summary:
    """Answer every image of `source` (see tasks.sources.source, or s3://bucket/prefix) and log the answers.

    name: source (camera, site) of images that name none. layout: a template of tasks.sources.layouts, whose {source},
    {time}, {key} and slices are logged; data.layout does not apply, because production has no class folders. Keys and
    slices are also read from columns. The owner's paths are logged.
    at: time of all images that name none; None: when the scoring began. All get the same, because the order of a folder
    is not that of time: a window of one part of it would lack whole classes. shuffle_hours: spread them over the hours
    before `at` instead, by their content, so that repeating it gives the same times.
    Raises EvergreenError if nothing is live, or if the source cannot be read or is empty.
    """
    from flows.production.answering import Answered, Asked, answered_batches, answered_here
    from flows.production.answering_by_ray import answered_by_ray
    from monitoring.log.production_log import open_log
    from monitoring.log.rows import log_table
    from serving.live import Live
    from tasks.common.params import load_params
    from tasks.common.paths import cache_dir
    from tasks.releases.store import open_store

    if not source.strip():
        raise EvergreenError(
            "the source to score is an empty name: expected a folder, a manifest or s3://bucket/prefix"
        )
    params = load_params(root / "params.yaml")
    model = Live(open_store(params.store, root), cache_dir("bundles", root)).model
    log = open_log(root, params)
    untimed = (at or datetime.now(UTC)).astimezone(UTC)
    found = Summary(model.version, model.predictor.provisional, at=untimed, shuffle_hours=shuffle_hours)
    span: list[datetime] = []  # times of the first and the last answer
    rows: list[dict] = []
    size = 0
    offered = 0
    columns = Columns(
        time=at_column, source=source_column, key=key_column, slices=tuple(slice_columns), unlabelled=True
    )

    def ask(one: Offered) -> Asked:
        data = one.read()
        digest = sha256_bytes(data) if shuffle_hours and one.taken_at is None else None
        spread = shuffle_hours * HOUR * (int(digest[:8], 16) / 16**8) if digest else timedelta()
        return Asked(data, one.taken_at or untimed - spread, one.source or name, one.key, one.path, one.slices, digest)

    def answer(batches: Iterable[Sequence[Asked]]) -> Iterator[Sequence[Answered]]:
        if params.scale.engine == "ray":
            return answered_by_ray(batches, model, params.scale)
        return answered_here(model, batches)

    for batch in answered_batches(_offered(source, root, params, columns, layout), ask, answer):
        for one, asked, said in batch:
            offered += 1
            found.bad_times += [one.bad_time] if one.bad_time else []
            if said is None:  # without bytes there is no id, so it is reported but not logged
                _unreadable(found, one.where, asked.reason, asked.detail)
                continue
            found.untimed += one.taken_at is None
            span = [min([asked.at, *span[:1]]), max([asked.at, *span[1:]])]
            rows.append(said.row | {"image": asked.image} if params.capture.images == "full" else said.row)
            size += len(asked.image)
            found.rows += 1
            found.needs_review += said.needs_review
            found.unfamiliar += said.unfamiliar
            if said.reason is not None:
                _unreadable(found, one.where, said.reason, said.detail)
            else:
                found.classes.update([said.label] if isinstance(said.label, str) else said.label)
        if len(rows) >= BUFFER_ROWS or size >= BUFFER_BYTES:
            log.append(log_table(rows, log.task))
            rows, size = [], 0
    if not offered:
        raise EvergreenError(f"{source} is empty: expected images to score")
    if rows:
        log.append(log_table(rows, log.task))
    if span:
        scored.note(root, model.predictor.digest, *span)
    return found


def _unreadable(found: Summary, where: str, reason: str, detail: str) -> None:
    found.unreadable[reason] += 1
    if len(found.examples) < 10:
        found.examples.append(f"{where}: {reason} ({detail})")


def _offered(source: str, root: Path, params: Params, columns: Columns, layout: str | None) -> Iterator:
    times = Times(params.data.time_format, params.data.time_zone)
    with on_disk(root, source, params, columns) as path:  # inside the block, because rows read their files late
        yield from _batches(track(open_source(path, columns, chosen_layout(layout), times).rows(), f"scoring {source}"))


def _batches(rows: Iterator) -> Iterator[list]:
    batch = []
    for one in rows:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
