"""Accuracy on late labels, and a rollback if the new champion is certainly worse.

Both models are compared on the same images: those that the champion answered and people labelled, without those picked
because it was unsure. The champion's answers are in the log; the predecessor's are computed. If the log keeps no image
bytes, the predecessor's own labelled answers of its time replace them. That is weaker, because traffic may have changed
in between.

b: images that only the champion got right; c: only the predecessor; N: images compared.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from flows.labels.class_reading import current_taxonomy
from flows.publishing.history import periods
from flows.publishing.rollback import rollback
from monitoring.alerts import alert, alert_once
from monitoring.console_link import quoted
from monitoring.live.labels import common_reading, in_common_names, truths
from monitoring.live.periods import is_right
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import queued
from tasks.common.checks import Frozen
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.labels.taxonomy import UNCHANGED, Taxonomy
from tasks.releases.pause import pause_of
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, cached_bundle, open_store
from tasks.scoring import intervals

Z = 2.326  # one-sided 99 %: "surely"
COMPARED = 500  # the newest labelled images that are compared, at most
LOOK_BACK = timedelta(days=30)  # for the predecessor's own answers


class Comparison(Frozen):
    """Accuracy of champion minus predecessor on late labels, with a two-sided 98 % interval."""

    n: int
    difference: float
    low: float
    high: float
    paired: bool  # the same images


def paired_difference(b: int, c: int, n: int) -> Comparison:
    """Champion minus predecessor on the same images."""
    low, high = intervals.paired_difference(b, c, n, Z)
    return Comparison(n=n, difference=(b - c) / n, low=low, high=high, paired=True)


def unpaired_difference(right: int, n: int, right_before: int, n_before: int) -> Comparison:
    """Champion minus predecessor, each on its own images."""
    low, high = intervals.unpaired_difference(right, n, right_before, n_before, Z)
    return Comparison(
        n=min(n, n_before), difference=right / n - right_before / n_before, low=low, high=high, paired=False
    )


def reevaluate(root: Path, say: Callable[[str], None] = print, now: datetime | None = None) -> str:
    """Compare champion and predecessor; roll back if decide.rollback_drop says so. Returns one sentence."""
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    live = releases.live()
    if live is None:
        return "no model is live yet, so there is nothing to evaluate"
    log, now = open_log(root, params), now or datetime.now(UTC)
    rows = labelled(log, live.at, now, live.bundle, params.decide.min_rows, current_taxonomy(root))
    write_json(state_dir(root) / "reevaluated.json", {"bundle": live.bundle, "labelled": len(rows)})
    if len(rows) < params.decide.min_rows:
        return f"{live.version}: {len(rows)} answers have a true label, {params.decide.min_rows} are needed"
    right = sum(_right(root, rows))
    share = f"{right / len(rows):.1%}, whatever they were picked for"
    sentence = f"{live.version}: {right} of {len(rows)} labelled answers right ({share})"
    before = predecessor(releases, live)
    if before is None:
        return sentence
    found = compare(root, params, releases, log, rows, live, before)
    if found is None:
        return f"{sentence}; too few labelled answers of {before.version} to compare"
    sentence += (
        f"; against {before.version}{'' if found.paired else ' (on its own traffic)'} {100 * found.difference:+.1f} "
        f"points ({100 * found.low:+.1f} .. {100 * found.high:+.1f}, N = {found.n})"
    )
    say(sentence)
    if found.high >= -params.decide.rollback_drop:
        return sentence
    page = f"/releases/{quoted(live.run_id)}"
    worse = f"{live.version} is certainly worse than its predecessor. {sentence}"
    if pause := pause_of(releases, now):
        done = f"not rolled back to {before.version}, because Evergreen is {pause.sentence()}"
        for problem in alert_once(root, f"rollback of {live.version}", "rollback", worse, done=done, page=page):
            say(problem)
        return f"{sentence}: {done}"
    back = rollback(root, before.version, by="policy", why=f"accuracy on late labels fell: {sentence}")
    done = f"rolled back to {back.version}"
    for problem in alert(root, "rollback", worse, done=done, page=page):
        say(problem)
    return f"{sentence}: {done}"


def due(root: Path, log: Log, live: Pointer, new: int) -> bool:
    """Whether at least `new` labels for the live model's answers came since its last re-evaluation."""
    last = read_rebuildable(state_dir(root) / "reevaluated.json", _accept, "labels are compared again")
    bundle, labels = last or (None, 0)
    before = labels if bundle == live.bundle else 0
    if len(set(log.labels(since=live.at)["id"].to_pylist())) < before + new:
        return False  # a cheap upper bound: labels of any model's answers
    return len(labelled(log, live.at, datetime.now(UTC), live.bundle, new)) >= before + new


def _accept(about: dict) -> tuple[str, int]:
    return expect(about["bundle"], str), expect(about["labelled"], int)


def predecessor(releases: Releases, live: Pointer) -> Pointer | None:
    """The version that the live one replaced; None for the first, and after a rollback, which a person decided."""
    history = releases.history()
    if periods(history)[-1].again:
        return None
    found = [pointer for pointer in history[:-1] if pointer.version == live.prev]
    return found[-1] if found else None


def labelled(
    log: Log, since: datetime, now: datetime, bundle: str, least: int, taxonomy: Taxonomy = UNCHANGED
) -> pa.Table:
    """Read the newest COMPARED labelled answers of model `bundle` in [since, now): id, at, prediction, label.

    Only those of audit samples, if they are `least`; else all but those that were picked because the model was unsure:
    on these it errs more often than an equal model that did not pick them.
    """
    known = {name: one for name, one in truths(log.labels(since=since), queued(log), taxonomy).items() if not one.hard}
    if not known:
        return pa.table({"id": pa.array([], pa.string()), "at": [], "prediction": [], "label": []})
    rows = log.find(known, since, now, ["id", "at", "prediction"], bundle).to_pylist()
    audit = [row for row in rows if known[row["id"]].chance]
    kept = sorted(audit if len(audit) >= least else rows, key=lambda row: row["at"])[-COMPARED:]
    return pa.table(
        {
            "id": pa.array([row["id"] for row in kept], pa.string()),
            "at": pa.array([row["at"] for row in kept], pa.timestamp("us", tz="UTC")),
            "prediction": [row["prediction"] for row in kept],
            "label": [known[row["id"]].label for row in kept],
        }
    )


def compare(
    root: Path, params: Params, releases: Releases, log: Log, rows: pa.Table, live: Pointer, before: Pointer
) -> Comparison | None:
    """Compare both models on `rows` (of `labelled`), else on their own answers; None if too few are labelled."""
    times = rows["at"].to_pylist()
    found = log.find(rows["id"].to_pylist(), min(times), max(times) + timedelta(microseconds=1), ["id", "image"])
    bytes_of = {row["id"]: row["image"] for row in found.to_pylist() if row["image"]}
    pairs = [(row, bytes_of[row["id"]]) for row in rows.to_pylist() if row["id"] in bytes_of]
    least = params.decide.min_rows
    if len(pairs) >= least:
        from serving.predictor import Predictor

        answers = Predictor(cached_bundle(releases, before.bundle, root)).predict([image for _, image in pairs])
        columns = [[row[name] for row, _ in pairs] for name in ("prediction", "label")]
        read = common_reading(current_taxonomy(root), [answer.label for answer in answers], *columns)
        old = [is_right(read(one.label), read(row["label"])) for one, (row, _) in zip(answers, pairs, strict=True)]
        new = [is_right(read(row["prediction"]), read(row["label"])) for row, _ in pairs]
        b = sum(n and not o for n, o in zip(new, old, strict=True))
        c = sum(o and not n for n, o in zip(new, old, strict=True))
        return paired_difference(b, c, len(pairs))
    earlier = labelled(log, live.at - LOOK_BACK, live.at, before.bundle, least, current_taxonomy(root))
    if len(earlier) < least:
        return None
    return unpaired_difference(sum(_right(root, rows)), len(rows), sum(_right(root, earlier)), len(earlier))


def _right(root: Path, rows: pa.Table) -> list[bool]:
    rows = in_common_names(rows, current_taxonomy(root))
    return [is_right(row["prediction"], row["label"]) for row in rows.to_pylist()]
