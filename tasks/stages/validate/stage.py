"""Stage `validate`: decides by hard rules and a Great Expectations suite what may be trained on.

Reads artifacts/inspect/samples.parquet, the batch manifests and the annotations under data/. Writes artifacts/validate/
{accepted.parquet, classes.json, taxonomy.json, quarantine.parquet, result.json, index.html},
artifacts/validate/network/{accepted.parquet, classes.json, confirmed.parquet} (see tasks.stages.validate.classes) and
metrics/validate.json. From here on a label is the effective one, after all that people said (tasks.labels), and samples
that people excluded are gone. index.html shows every rule with its figures and works without network.

Rows that break a rule are quarantined. A batch or table that breaks one stops the run (BatchRefused, TableRefused);
its page is then in `.evergreen/validation/`. Batches are judged in ingest order, each against those before it. The
measurements are cached, so a run only pays for new data.

    python -m tasks.stages validate
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.checks import Check
from tasks.common.errors import BatchRefused, StageInputError, TableRefused
from tasks.common.files import atomic_path, write_json
from tasks.common.params import DataParams, EmbedParams, ImagesParams, LabelsParams, ValidateParams
from tasks.common.schemas import accepted_schema
from tasks.dataset.shards import BatchManifest, batches, read_tombstones
from tasks.stages.validate import batch_noise, expectations, people, rules, synthetic
from tasks.stages.validate import page as validation_page
from tasks.stages.validate.classes import choose_classes, class_mapping, views
from tasks.stages.validate.copies import Search, exclude_copies, why
from tasks.stages.validate.expectations import Outcome
from tasks.stages.validate.refusal import keep_page, tiles, write_text
from tasks.stages.validate.table import LEFT_OUT, Findings, SampleTable, failures, left_out_text, report

OPINIONS = 200  # images of a refused batch whose label the probe doubts, kept for its page
REFERENCE = 4000  # rows of the earlier data, and of a batch, that are compared at most
MIX_COMPARED = (
    "import",
)  # kinds of batches; the mix of traffic is free, and reviews are chosen because they are doubtful
LABELS_COMPARED = ("import", "production")  # in a review, a person looked at each doubtful image
QUARANTINE = pa.schema([("id", pa.string()), ("batch", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


def run(
    root: Path,
    *,
    data: DataParams,
    images: ImagesParams,
    embed: EmbedParams,
    labels: LabelsParams,
    validate: ValidateParams,
) -> None:
    """Validate the inspected table. Raises BatchRefused, TableRefused, ParamsError, StageInputError."""
    expectations.columns_of(validate.expectations)  # report a misspelt column before any work
    samples, manifests = _read(root)
    samples, copies = exclude_copies(Search(root, embed, images), samples, validate.copies_of)
    network, today, changes = views(root, samples, data.classes, validate, labels.consensus)
    over = synthetic.over_share(network.table, data.synthetic_share)
    for one in (network, today):
        one.table.leave_out_synthetic(over)
    table = network.table
    table.evidence |= {copy["id"]: why(copy) for copy in copies.to_pylist()}
    table.given = pc.is_valid(samples["label"]).to_numpy()
    found = Findings()
    try:
        found.classes, found.left_out = choose_classes(network, validate)
        if network.listed is None:
            _refuse_table([rules.rare_labels(int(table.left_out.sum()), int(table.labelled.sum()))])
        _judge_batches(root, table, manifests, found, data.task, images, embed, validate)
        found.of_table = table_checks(table, found.classes, validate)
        _refuse_table(found.of_table)
        found.outcomes = expectations.evaluate(root, table.accepted(), validate.expectations)
        found.of_suite = apply_outcomes(table, found.outcomes, len(validate.expectations))
        _refuse_table(found.of_suite)
        if (table.reason == "expectation").any():  # the rules must hold for what is left, too
            for manifest in manifests:
                _judge_shares(table, manifest, found, validate)
            found.of_table = table_checks(table, found.classes, validate)
            _refuse_table(found.of_table)
        trained, found = found, replace(found)
        if today is not network:
            today.table.evidence = table.evidence
            table = today.table
            table.refuse_as(network.table)
            found.classes, found.left_out = choose_classes(today, validate)
            found.of_table = table_checks(table, found.classes, validate)
            _refuse_table(found.of_table)
    except (BatchRefused, TableRefused) as refusal:
        what = refusal.batch if isinstance(refusal, BatchRefused) else "table"
        page = keep_page(root, table, found, manifests, images, {"what": what, "reasons": refusal.reasons})
        reasons = [*refusal.reasons, f"all figures are in {page}"]
        raise (BatchRefused(what, reasons) if what != "table" else TableRefused(reasons, refusal.checks)) from None
    folder = root / artifacts.NETWORK
    _write_accepted(folder, network.table, trained.classes, data.task)
    _write_parquet(root / artifacts.VALIDATED / "copies.parquet", copies)
    _write_parquet(folder / "confirmed.parquet", people.confirmed_table(samples["id"], network.said))
    write_json(folder / "batches.json", {manifest.batch: manifest.seq for manifest in manifests})
    write_json(
        root / artifacts.VALIDATED / "taxonomy.json", class_mapping(network, today, trained.classes, found.classes)
    )
    labels = people.label_figures(samples, today.said, today.taxonomy, changes)
    _write(root, table, found, manifests, data.task, images, labels)


def _read(root: Path) -> tuple[pa.Table, list[BatchManifest]]:
    file = root / "artifacts" / "inspect" / "samples.parquet"
    if not file.is_file():
        raise StageInputError(f"{file} is missing: run the stage inspect first")
    tombstones = read_tombstones(root)
    manifests = [batch for batch in batches(root / "data") if batch.batch not in tombstones]
    return pq.read_table(file), manifests


def _judge_batches(
    root: Path,
    table: SampleTable,
    manifests: list[BatchManifest],
    found: Findings,
    task: str,
    images: ImagesParams,
    embed: EmbedParams,
    validate: ValidateParams,
) -> None:
    """Judge each batch, in ingest order, against the bounds and the batches before it; refuse the first bad one.

    MIX_COMPARED and LABELS_COMPARED say which rule applies to which kind of batch; none to a batch that came without
    labels and of which people labelled chosen images. The hard set is not a random sample,
    so nothing is compared with it.
    """
    training = table.training
    earlier, reference = Counter(), np.empty(0, np.int64)
    for manifest in manifests:
        here = training & (table.batch == manifest.batch)
        rows, mix = np.flatnonzero(here), table.counts(here)
        checks: list[Check] = []
        found.opinions = None
        comparable = len(rows) >= validate.min_batch <= len(reference) and mix and earlier
        comparable = comparable and not table.labelled_by_choice(manifest.batch)
        if comparable and manifest.kind in MIX_COMPARED:
            names = sorted(mix | earlier)
            now, before = (np.array([counts[name] for name in names]) for counts in (mix, earlier))
            checks.append(rules.prior_change(now, before, validate.max_prior_change))
        if comparable and manifest.kind in LABELS_COMPARED:
            both = table.samples.take(pa.array(np.concatenate([reference, _draw(rows, table.ids)])))
            noise = batch_noise.cached(root, both, len(reference), task, images, embed)
            checks += batch_noise.judge(noise, validate.max_noise_increase)
            drawn = both.slice(len(reference)).select(["id", "label"]).to_pydict()
            found.opinions = batch_noise.opinions(noise, drawn["id"], drawn["label"], OPINIONS)
        found.of_batch[manifest.batch] = checks
        _judge_shares(table, manifest, found, validate)
        if manifest.kind not in ("hard", "synthetic"):
            earlier += mix
            reference = _draw(np.concatenate([reference, rows]), table.ids)
    found.opinions = None


def _judge_shares(table: SampleTable, manifest: BatchManifest, found: Findings, validate: ValidateParams) -> None:
    """Add or update the checks of null labels and quarantined rows. Refuse the batch if any check fails."""
    checks = {check.name: check for check in found.of_batch[manifest.batch]}
    checks |= {check.name: check for check in share_checks(table, manifest, validate)}
    found.of_batch[manifest.batch] = list(checks.values())
    if reasons := failures(list(checks.values())):
        raise BatchRefused(manifest.batch, reasons)


def share_checks(table: SampleTable, manifest: BatchManifest, validate: ValidateParams) -> list[Check]:
    """Checks of rows without label and of rows quarantined at ingest or later; none for a small batch.

    Rows left out for their class do not count: data.classes is a choice that says nothing about the batch.
    """
    here = (table.batch == manifest.batch) & ~table.left_out
    refused = sum(count for reason, count in manifest.quarantined.items() if reason != LEFT_OUT)
    rows = int(here.sum())
    if rows + refused < validate.min_batch:
        return []
    bad = refused + int((here & table.quarantined).sum())
    checks = [rules.quarantined(bad, rows + refused, validate.max_quarantined)]
    if manifest.kind != "production" and rows and not table.labelled_by_choice(manifest.batch):  # traffic has none
        checks.append(rules.null_labels(int((here & ~table.labelled).sum()), rows, validate.max_null_labels))
    return checks


def _draw(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The REFERENCE rows with the smallest ids.

    Ids are hashes, so this is a random draw. It hardly changes as rows are added, so cached measurements stay valid.
    """
    return rows[np.argsort(ids[rows])][:REFERENCE]


def table_checks(table: SampleTable, classes: list[str], validate: ValidateParams) -> list[Check]:
    """Checks of rows, classes, support of each class, and that columns with an expectation are not empty."""
    counts = {split: table.counts(table.fine & (table.split == split)) for split in rules.SPLITS}
    fine = table.accepted()
    return [
        rules.rows(int(table.training.sum()), validate.min_rows),
        *rules.class_support(counts, classes, validate.min_per_class, validate.min_classes),
        *(
            rules.values_seen(name, _values(fine.column(name)), len(fine))
            for name in expectations.columns_of(validate.expectations)
        ),
    ]


def _values(column: pa.ChunkedArray) -> int:
    """Entries that are neither null nor NaN: those that an expectation evaluates."""
    return len(column) - pc.sum(pc.is_null(column, nan_is_null=True), min_count=0).as_py()


def apply_outcomes(table: SampleTable, outcomes: list[Outcome], asked: int) -> list[Check]:
    """Quarantine the rows that break an expectation; a failed check where the whole table breaks one."""
    checks = [rules.expectations(asked, sum(not outcome.error for outcome in outcomes))]
    row_of = {one: row for row, one in enumerate(table.ids)}
    for number, outcome in enumerate(outcomes):
        if outcome.error:
            why = f"could not be evaluated: {outcome.error}"
        elif outcome.passed:
            continue
        elif not outcome.unexpected:
            why = f"is broken by the table as a whole (found {outcome.observed}): no row can be quarantined for it"
        elif outcome.severity == "stop":
            why = f"is broken by {len(outcome.unexpected)} rows, for example {next(iter(outcome.unexpected.values()))}"
        else:
            for one, what in outcome.unexpected.items():
                table.quarantine(row_of[one], "expectation", f"{what} breaks {outcome.sentence}")
            continue
        status = "error" if outcome.error else "fail"
        checks.append(Check(name=f"expectation.{number}", status=status, detail=f"{outcome.sentence} {why}"))
    return checks


def _refuse_table(checks: list[Check]) -> None:
    if reasons := failures(checks):
        raise TableRefused(reasons, checks)


def _write(
    root: Path,
    table: SampleTable,
    found: Findings,
    manifests: list[BatchManifest],
    task: str,
    images: ImagesParams,
    labels: dict,
) -> None:
    out = root / artifacts.VALIDATED
    about = report(found, table, manifests, None)
    made = synthetic.figures(table)
    about |= {"synthetic": made} if made else {}
    _write_accepted(out, table, found.classes, task)
    _write_parquet(out / "quarantine.parquet", table.refused_rows().select(QUARANTINE.names).cast(QUARANTINE))
    write_json(out / "result.json", about)
    write_text(out / "index.html", validation_page.render(about, tiles(root, table, images)))
    figures = {name: about[name] for name in ("rows", "accepted", "labelled_training_rows", "excluded", "quarantined")}
    counts = {"classes": len(found.classes), "batches": len(manifests), "checks": len(found.all_checks())}
    if made:
        figures["synthetic"] = {"used": made["used"], "left_out": made["left_out"]}
    if found.left_out:
        figures["left_out"] = about["left_out"]
    about = {**figures, **counts, **labels, "expectations": len(found.outcomes)}
    write_json(root / "metrics" / "validate.json", about)
    print(
        f"validate: {figures['accepted']} of {figures['rows']} samples accepted, {counts['classes']} classes, "
        f"{counts['checks']} checks and {len(found.outcomes)} expectations passed"
        + (f"; left out: {left_out_text(figures['left_out'])}" if found.left_out else "")
        + (f"; {made['used']} synthetic, {made['left_out']} of them too many for their class" if made else "")
    )


def _write_accepted(out: Path, table: SampleTable, classes: list[str], task: str) -> None:
    schema = accepted_schema(task)
    _write_parquet(out / "accepted.parquet", table.accepted().select(schema.names).cast(schema))
    write_json(out / "classes.json", classes)


def _write_parquet(file: Path, table: pa.Table) -> None:
    with atomic_path(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")
