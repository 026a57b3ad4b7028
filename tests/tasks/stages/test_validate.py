"""Stage `validate`: what it refuses, what it quarantines, what it lets through, and what its page shows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tasks.common.checks import Check
from tasks.common.errors import BatchRefused, ParamsError, StageInputError, TableRefused
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import Expectation, load_params, parse_params
from tasks.common.paths import cache_dir
from tasks.common.schemas import accepted_schema, sample_schema, samples_schema
from tasks.dataset import shards
from tasks.stages.validate import page, rules, stage
from tests.support.checkout import ROOT
from tests.support.shared import networks

PARAMS = load_params(ROOT / "params.yaml")
IMAGES = PARAMS.images.model_copy(update={"resolution": 32})
HOSTILE = "</script><script>alert(1)</script>"
CLASSES = ("Trouser", "T-shirt/top", "Sneaker", "Bag")


def fashion(file: str, splits: tuple = ("train",), each: int | None = None, classes=CLASSES) -> list[dict]:
    """Rows of the default data set; at most `each` a class and split."""
    rows, taken = [], {}
    for row in pq.read_table(ROOT / "datasets" / "fashion" / f"{file}.parquet").to_pylist():
        place = row["split"], row["label"]
        if row["split"] in splits and row["label"] in classes and taken.get(place, 0) < (each or 10**9):
            taken[place] = taken.get(place, 0) + 1
            rows.append(row | {"id": sha256_bytes(row["image"]["bytes"])})
    return rows


class Project:
    """A project whose images `inspect` has measured; `status`, `width` and so on of a row may be set."""

    def __init__(self, root: Path, task: str = "multiclass"):
        self.root, self.task, self.samples = root, task, []
        shards.create(root / "data", task)
        write_json(root / "tombstones.json", {})

    def add(self, rows: list[dict], kind: str = "import", quarantined: dict[str, int] | None = None) -> str:
        """One more batch; returns its name."""
        number = len(shards.batches(self.root / "data")) + 1
        batch = f"b-{number:012x}"
        full = [{"origin": "import", "slice": [], "batch": batch, **row} for row in rows]
        schema = sample_schema(self.task)
        names = []
        if rows:
            columns = {field.name: [row.get(field.name) for row in full] for field in schema}
            names = [shards.write_shard(self.root / "data", pa.table(columns, schema=schema), self.task)]
        shards.write_batch(
            self.root / "data",
            shards.BatchManifest(
                seq=number, batch=batch, kind=kind, shards=names, rows=len(rows), quarantined=quarantined or {}
            ),
        )
        measures = {"format": "PNG", "mode": "L", "width": 28, "height": 28, "contrast": 80.0, "status": "ok"}
        for number, row in enumerate(full):
            self.samples.append({**measures, "cluster": row["id"], **row, "shard": names[0], "row": number})
        return batch

    def run(self, images=IMAGES, classes: list[str] | None = None, **changes) -> Path:
        """Run the stage with `changes` to its section of params.yaml; returns the folder of its outputs."""
        schema = samples_schema(self.task)
        columns = {field.name: [row.get(field.name) for row in self.samples] for field in schema}
        file = self.root / "artifacts" / "inspect" / "samples.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=schema), file)
        data = PARAMS.data.model_copy(update={"task": self.task, "classes": classes})
        section = PARAMS.validate_.model_copy(update=changes)
        stage.run(self.root, data=data, images=images, embed=PARAMS.embed, validate=section)
        return self.root / "artifacts" / "validate"

    def kept(self, name: str) -> tuple[dict, str]:
        """What a refusal left for the user: figures and page."""
        folder = self.root / ".evergreen" / "validation"
        return json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.html").read_text()


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    return Project(tmp_path)


@pytest.fixture(scope="module")
def base() -> list[dict]:
    """100 training images a class, noise included, and a few to calibrate and test."""
    return fashion("base", each=100) + fashion("base", ("calibration", "test"), each=3)


def status_of(checks: list[dict]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in checks}


# --- the table ------------------------------------------------------------------------------------------------


def test_accepts_a_good_table_and_says_why(project, base):
    batch = project.add(base)
    out = project.run()
    accepted = pq.read_table(out / "accepted.parquet")
    assert accepted.schema == accepted_schema("multiclass")
    assert accepted["id"].to_pylist() == [row["id"] for row in base], "canonical order"
    assert json.loads((out / "classes.json").read_text()) == sorted(CLASSES)
    result = json.loads((out / "result.json").read_text())
    assert result["passed"]
    assert status_of(result["checks"])["rows"] == "pass"
    assert status_of(result["checks"])["support.train.Bag"] == "pass"
    assert [one["passed"] for one in result["expectations"]] == [True] * 3
    assert [about["batch"] for about in result["batches"]] == [batch]
    assert pq.read_table(out / "quarantine.parquet").num_rows == 0
    figures = json.loads((project.root / "metrics" / "validate.json").read_text())
    assert (figures["accepted"], figures["classes"], figures["expectations"]) == (len(base), 4, 3)


def test_the_same_input_gives_the_same_bytes(project, base):
    project.add([*base[:-1], base[-1] | {"width": 10}])
    out = project.run()
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    shutil.rmtree(out)
    shutil.rmtree(project.root / ".evergreen")
    project.run()
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first


def test_samples_are_needed(tmp_path):
    with pytest.raises(StageInputError, match="run the stage inspect first"):
        stage.run(tmp_path, data=PARAMS.data, images=IMAGES, embed=PARAMS.embed, validate=PARAMS.validate_)


def test_unlabelled_rows_are_accepted_and_leaks_are_not(project, base):
    project.add(base)
    project.samples[0]["label"] = None
    project.samples[1]["excluded"] = "leaks_test"
    accepted = pq.read_table(project.run() / "accepted.parquet")
    assert base[0]["id"] in accepted["id"].to_pylist()
    assert base[1]["id"] not in accepted["id"].to_pylist()


def test_a_class_short_in_a_split_is_named_with_both_figures(project, base):
    project.add([row for row in base if (row["split"], row["label"]) != ("test", "Bag")])
    with pytest.raises(TableRefused, match=r"class 'Bag' has 0 images in the split test, at least 1 expected"):
        project.run()


def test_a_listed_class_without_training_images_is_refused(project, base):
    project.add(base)
    with pytest.raises(TableRefused, match=r"class 'Hat' has 0 images in the split train, at least 3 expected"):
        project.run(classes=[*CLASSES, "Hat"])


def test_a_label_with_too_few_images_is_no_class_and_its_rows_are_quarantined(project, base):
    rows = [dict(row) for row in base]
    rows[0]["label"], rows[1]["label"] = "Bagg", "Bagg"
    project.add(rows)
    out = project.run()
    assert "Bagg" not in json.loads((out / "classes.json").read_text())
    (detail,) = set(pq.read_table(out / "quarantine.parquet")["detail"].to_pylist())
    assert detail == "label 'Bagg' has 2 labelled training images, at least 3 make a class"


def test_one_class_is_refused(project, base):
    project.add([row for row in base if row["label"] == "Bag"])
    with pytest.raises(TableRefused, match=r"1 classes \['Bag'\], at least 2 expected"):
        project.run()


# --- what a validation library calls a success ----------------------------------------------------------------


def test_no_rows_is_refused(project):
    project.add([])
    with pytest.raises(TableRefused, match="0 labelled training rows, at least 50 expected"):
        project.run()


def test_an_empty_suite_is_refused():
    assert rules.expectations(0, 0).status == "fail"
    assert rules.expectations(3, 2).status == "fail"
    with pytest.raises(ParamsError, match=r"validate\.expectations"):
        parse_params({"validate": {"expectations": []}})


@pytest.mark.parametrize(
    ("column", "value", "type", "kwargs"),
    [
        ("source", None, "expect_column_values_to_be_in_set", {"value_set": ["site-01/cam-1"]}),
        ("contrast", float("nan"), "expect_column_values_to_be_between", {"min_value": 1}),
    ],
)
def test_a_column_without_values_is_refused(project, base, column, value, type, kwargs):
    project.add([row | {column: value} for row in base])
    expectation = Expectation(type=type, kwargs={"column": column, **kwargs})
    with pytest.raises(TableRefused, match=f"column '{column}' has a value in 0 of {len(base)} rows"):
        project.run(expectations=[expectation])


# --- expectations ---------------------------------------------------------------------------------------------


def test_rows_that_break_an_expectation_are_quarantined_and_only_they(project, base):
    project.add(base)
    project.samples[5]["width"] = 12
    project.samples[6]["status"] = "truncated"
    out = project.run()
    quarantined = {row["id"]: row for row in pq.read_table(out / "quarantine.parquet").to_pylist()}
    assert {row["reason"] for row in quarantined.values()} == {"expectation", "truncated"}
    broken = quarantined[base[5]["id"]]
    assert broken["detail"].startswith("width = 12")
    assert "min_value=16" in broken["detail"]
    accepted = pq.read_table(out / "accepted.parquet")["id"].to_pylist()
    assert len(accepted) == len(base) - 2
    assert not quarantined.keys() & set(accepted)
    assert "data:image/png;base64," in (out / "index.html").read_text(), "the quarantined image is shown"


def test_a_stop_expectation_refuses_the_table(project, base):
    project.add(base)
    project.samples[5]["width"] = 12
    stop = Expectation(
        type="expect_column_values_to_be_between", kwargs={"column": "width", "min_value": 16}, severity="stop"
    )
    with pytest.raises(TableRefused, match=r"is broken by 1 rows, for example width = 12"):
        project.run(expectations=[stop])
    report, _ = project.kept("table")
    assert not report["passed"]


def test_an_expectation_on_the_whole_table_cannot_be_met_by_quarantine(project, base):
    project.add(base)
    few = Expectation(type="expect_table_row_count_to_be_between", kwargs={"min_value": 10**6})
    with pytest.raises(TableRefused, match="broken by the table as a whole"):
        project.run(expectations=[few])


def test_an_expectation_that_cannot_be_evaluated_is_an_error_not_a_pass(project, base):
    project.add(base)
    wrong = Expectation(type="expect_column_values_to_be_between", kwargs={"column": "label", "min_value": 3})
    with pytest.raises(TableRefused, match="could not be evaluated"):
        project.run(expectations=[wrong])


def test_misspelt_expectations_are_told_with_their_place(project, base):
    project.add(base)
    with pytest.raises(ParamsError, match=r"expectations\.0\.kwargs\.column: no column 'widht', did you mean 'width'"):
        project.run(expectations=[Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": "widht"})])
    with pytest.raises(ParamsError, match=r"expectations\.0 \(expect_wonders\)"):
        project.run(expectations=[Expectation(type="expect_wonders", kwargs={})])


def test_an_unchanged_table_is_not_evaluated_again(project, base):
    project.add(base)
    project.samples[5]["width"] = 12
    out = project.run()
    (entry,) = cache_dir("validate", project.root).glob("expectations-*.json")
    known = json.loads(entry.read_text())
    known[0]["unexpected"] = {base[7]["id"]: "seen in the cache"}
    write_json(entry, known)
    project.run()
    assert pq.read_table(out / "quarantine.parquet")["id"].to_pylist() == [base[7]["id"]]
    entry.write_text("{ torn")
    project.run()
    assert pq.read_table(out / "quarantine.parquet")["id"].to_pylist() == [base[5]["id"]]


def test_when_too_much_of_a_batch_breaks_expectations_the_batch_is_refused(project, base):
    project.add(base)
    bad = project.add([row | {"contrast": 0.0} for row in fashion("batch-2", each=20)])
    with pytest.raises(BatchRefused, match="80 of 80 rows are quarantined, at most 20% expected") as refusal:
        project.run(max_noise_increase=1.0)
    assert refusal.value.batch == bad


# --- batches --------------------------------------------------------------------------------------------------


def test_a_flipped_class_is_refused_and_named_and_its_images_are_shown(project, base):
    project.add(base)
    bad = project.add(fashion("sabotaged"))
    with pytest.raises(BatchRefused, match="images labelled 'Bag' look like another class") as refusal:
        project.run()
    assert refusal.value.batch == bad
    report, page = project.kept(bad)
    assert report["refused"]["what"] == bad
    failed = {name for name, status in status_of(report["batches"][1]["checks"]).items() if status == "fail"}
    assert failed == {"noise.Bag", "noise.Sneaker"}
    assert "labelled Bag" in page
    assert "data:image/png;base64," in page
    assert str(project.root / ".evergreen" / "validation" / f"{bad}.html") in str(refusal.value)
    assert not (project.root / "artifacts" / "validate").exists()


def test_a_swap_of_two_classes_is_refused(project, base):
    swap = {"Trouser": "Bag", "Bag": "Trouser"}
    project.add(base)
    project.add([row | {"label": swap.get(row["label"], row["label"])} for row in fashion("batch-2", each=40)])
    with pytest.raises(BatchRefused) as refusal:
        project.run()
    assert "'Bag'" in str(refusal.value)
    assert "'Trouser'" in str(refusal.value)


def test_an_honest_batch_is_accepted_and_its_measurements_are_reused(project, base):
    project.add(base)
    project.add(fashion("batch-2", each=60))
    out = project.run()
    result = json.loads((out / "result.json").read_text())
    checks = status_of(result["batches"][1]["checks"])
    assert {"prior_change", "noise.comparable", "noise.Bag"} <= checks.keys()
    assert set(checks.values()) == {"pass"}
    assert status_of(result["batches"][0]["checks"]).keys() == {"null_labels", "quarantined"}, "nothing before it"

    features = cache_dir("features", project.root)
    shutil.rmtree(features)
    project.run()
    assert not any(cache_dir("features", project.root).iterdir()), "the features were made again"
    assert json.loads((out / "result.json").read_text()) == result


def test_a_production_batch_from_another_camera_is_not_taken_for_noise(project, base):
    """Its labels are right; the probe trained on the old camera disagrees with many of them."""
    truth = dict(zip(*pq.read_table(ROOT / "datasets/fashion/truth.parquet").to_pydict().values(), strict=True))
    window = fashion("production-2", (None,), classes=(None,))
    labelled = [row | {"split": "train", "label": truth[row["id"]]} for row in window if truth[row["id"]] in CLASSES]
    project.add(base)
    project.add(labelled, kind="production")
    result = json.loads((project.run() / "result.json").read_text())
    (comparable,) = [check for check in result["batches"][1]["checks"] if check["name"].startswith("noise.")]
    assert comparable["value"] > comparable["bound"]


def test_a_batch_without_labels_is_refused_unless_it_is_traffic(project, base):
    unlabelled = [row | {"label": None} for row in fashion("batch-2", each=20)]
    project.add(base)
    bad = project.add(unlabelled)
    with pytest.raises(BatchRefused, match="80 of 80 rows have no label") as refusal:
        project.run()
    assert refusal.value.batch == bad
    again = Project(project.root.parent / "traffic")
    again.add(base)
    again.add(unlabelled, kind="production")
    assert pq.read_table(again.run() / "accepted.parquet").num_rows == len(base) + 80


def test_what_ingest_quarantined_counts_against_a_batch(project, base):
    bad = project.add(base, quarantined={"truncated": 200})
    with pytest.raises(BatchRefused, match=f"200 of {len(base) + 200} rows are quarantined") as refusal:
        project.run()
    assert refusal.value.batch == bad


def test_a_tombstoned_batch_is_not_judged(project, base):
    project.add(base)
    bad = project.add([], quarantined={"truncated": 90})
    with pytest.raises(BatchRefused):
        project.run()
    write_json(project.root / "tombstones.json", {bad: {"why": "broken upload", "at": "", "by": ""}})
    project.run()


def test_the_hard_set_is_no_sample_and_not_compared(project, base):
    project.add(base)
    project.add([row | {"split": "hard"} for row in fashion("hard", ("hard",))], kind="hard")
    result = json.loads((project.run() / "result.json").read_text())
    assert status_of(result["batches"][1]["checks"]).keys() == {"null_labels", "quarantined"}


def test_prior_change_needs_more_than_chance():
    earlier = np.array([500, 300, 200])
    same = rules.prior_change(np.array([50, 30, 20]), earlier, 0.35)
    assert (same.status, same.value, same.low) == ("pass", 0, 0)
    other = rules.prior_change(np.array([5, 15, 80]), earlier, 0.35)
    assert other.status == "fail"
    assert other.value == pytest.approx(0.6)
    tiny = rules.prior_change(np.array([1, 2, 3]), earlier, 0.25)  # 0.3 apart, but of six images
    assert tiny.value > 0.25
    assert tiny.status == "pass"


def test_honest_samples_pass_prior_change_at_any_size():
    rng, earlier = np.random.default_rng(0), np.array([900, 400, 200, 80, 20])
    for size in (30, 100, 1000):
        for _ in range(50):
            assert rules.prior_change(rng.multinomial(size, earlier / earlier.sum()), earlier, 0.1).status == "pass"


def test_another_mix_refuses_the_batch(project, base):
    project.add(base)
    project.add(fashion("base", classes=("Trouser",))[100:200])
    with pytest.raises(BatchRefused, match=r"label mix differs by 0\.75"):
        project.run()


def test_traffic_and_reviews_may_have_another_mix(project, base):
    trousers = fashion("base", classes=("Trouser",))
    project.add(base)
    project.add(trousers[100:150], kind="production")
    project.add(trousers[200:250], kind="review")
    result = json.loads((project.run() / "result.json").read_text())
    assert "noise.Trouser" in status_of(result["batches"][1]["checks"])
    assert status_of(result["batches"][2]["checks"]).keys() == {"null_labels", "quarantined"}


# --- multi-label ----------------------------------------------------------------------------------------------


def test_multilabel_is_judged_class_by_class(tmp_path):
    def with_kind(rows: list[dict]) -> list[dict]:
        """The class, and whether it is worn on the feet."""
        return [row | {"label": [row["label"], *(["shoe"] if row["label"] == "Sneaker" else [])]} for row in rows]

    project = Project(tmp_path, "multilabel")
    project.add(with_kind(fashion("base", each=60) + fashion("base", ("calibration", "test"), each=2)))
    project.add(with_kind(fashion("batch-2", each=40)))
    out = project.run()
    assert json.loads((out / "classes.json").read_text()) == sorted([*CLASSES, "shoe"])
    bad = project.add([row | {"label": [row["label"], "shoe"]} for row in fashion("sabotaged", each=40)])
    with pytest.raises(BatchRefused, match="images labelled 'shoe' look like another class") as refusal:
        project.run()
    assert refusal.value.batch == bad


# --- the page -------------------------------------------------------------------------------------------------


def test_hostile_labels_and_names_are_escaped_everywhere(project, base):
    rows = [dict(row) for row in base]
    for row in rows:
        if row["label"] == "Bag":
            row["label"] = HOSTILE
        row["source"] = f'"><img src=x onerror=alert(2)>{row["source"]}'
    project.add(rows)
    project.samples[0]["label"] = HOSTILE * 2  # too rare: quarantined, with the label in its detail
    suite = [
        Expectation(
            type="expect_column_values_to_be_in_set", kwargs={"column": "label", "value_set": [HOSTILE, *CLASSES]}
        ),
        Expectation(
            type="expect_column_values_to_match_regex", kwargs={"column": "source", "regex": "^site", "mostly": 0}
        ),
    ]
    out = project.run(expectations=suite)
    page = (out / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page.lower()
    assert "<img src=x" not in page
    assert HOSTILE in json.loads((out / "classes.json").read_text()), "the data itself is not altered"
    assert pc.sum(pc.equal(pq.read_table(out / "accepted.parquet")["label"], HOSTILE)).as_py() > 0


def test_the_page_loads_nothing_and_shows_failed_rules(project, base):
    project.add(base)
    with pytest.raises(TableRefused):
        project.run(min_rows=10**6)
    _, page = project.kept("table")
    assert "Content-Security-Policy" in page
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "at least 1,000,000 expected" in page


def test_bytes_that_inspect_could_not_decode_are_never_decoded_for_the_page(tmp_path):
    shards.create(tmp_path, "multiclass")
    row = {"id": "0" * 64, "image": {"bytes": b"\x89PNG no image", "path": None}, "batch": "b-1"}
    name = shards.write_shard(tmp_path, pa.Table.from_pylist([row], schema=sample_schema("multiclass")), "multiclass")
    listed = {"id": "0" * 64, "batch": "b-1", "shard": name, "row": 0, "reason": "truncated", "detail": ""}
    for status in ("truncated", "ok"):  # and if one slips through, the page is made all the same
        (tile,) = page.tiles(tmp_path, pa.Table.from_pylist([listed | {"status": status}]), 10**6)
        assert tile["image"] is None


def test_a_check_with_an_error_is_no_pass():
    from tasks.stages.validate.table import failures

    assert failures([Check(name="a", status="pass"), Check(name="b", status="error", detail="broke")]) == ["broke"]
