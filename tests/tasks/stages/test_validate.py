"""Stage `validate` on the table: what it refuses and quarantines, its expectations and its page."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows.runs.summary import SUMMARIES
from tasks.common.checks import Check
from tasks.common.errors import BatchRefused, ParamsError, StageInputError, TableRefused
from tasks.common.files import sha256_bytes
from tasks.common.params import parse_params
from tasks.common.paths import cache_dir
from tasks.common.schemas import accepted_schema, sample_schema
from tasks.common.sealed import write_sealed_json
from tasks.common.sections.data import Expectation
from tasks.dataset import shards
from tasks.labels.taxonomy import UNCHANGED
from tasks.stages.validate import page, rules, stage
from tasks.stages.validate.classes import View
from tasks.stages.validate.table import SampleTable
from tests.support.browser import browser
from tests.support.inspected_project import CLASSES, IMAGES, PARAMS, Project, fashion, status_of
from tests.support.shared import networks

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    return Project(tmp_path)


@pytest.fixture(scope="module")
def base() -> list[dict]:
    """100 training images a class, noise included, and a few to calibrate and test."""
    return fashion("base", each=100) + fashion("base", ("calibration", "test"), each=3)


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
    first = {file.name: file.read_bytes() for file in out.rglob("*.*")}
    shutil.rmtree(out)
    shutil.rmtree(project.root / ".evergreen")
    project.run()
    assert {file.name: file.read_bytes() for file in out.rglob("*.*")} == first


def test_samples_are_needed(tmp_path):
    with pytest.raises(StageInputError, match="run the stage inspect first"):
        stage.run(
            tmp_path,
            data=PARAMS.data,
            images=IMAGES,
            embed=PARAMS.embed,
            labels=PARAMS.labels,
            validate=PARAMS.validate_,
        )


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


def test_a_class_that_is_not_listed_is_left_out_and_counted(project, base):
    """A third of the batch: were it quarantined, the batch would be refused for a setting."""
    project.add(base, quarantined={"unknown_label": 500})
    out = project.run(classes=CLASSES[1:])
    result = json.loads((out / "result.json").read_text())
    left = sum(row["label"] == CLASSES[0] for row in base)
    assert (result["left_out"], result["quarantined"]) == ({CLASSES[0]: left}, {})
    assert result["accepted"] == len(base) - left
    (checks,) = [about["checks"] for about in result["batches"]]
    assert [check["value"] for check in checks if check["name"] == "quarantined"] == [0]
    assert CLASSES[0] not in pq.read_table(out / "accepted.parquet")["label"].to_pylist()
    assert set(pq.read_table(out / "quarantine.parquet")["reason"].to_pylist()) == {"unknown_label"}
    assert f"{CLASSES[0]} ({left})" in (out / "index.html").read_text()
    figures = json.loads((project.root / "metrics" / "validate.json").read_text())
    assert f"left out: {left} '{CLASSES[0]}'" in SUMMARIES["validate"](figures)


def test_a_table_of_labels_too_rare_to_be_classes_is_refused_unless_they_are_listed(project, base):
    """Names or numbers in the label column: every image has a label of its own."""
    odd = [row | {"label": f"part {number}"} for number, row in enumerate(base)]
    project.add([*base[: len(base) // 3], *odd[len(base) // 3 :]])
    with pytest.raises(TableRefused, match="have labels too rare to be classes, at most 50% expected"):
        project.run()


def test_in_multi_label_data_only_the_unlisted_label_is_left_out():
    schema = sample_schema("multilabel")
    rows = [{"id": f"{n}", "label": labels, "split": "train"} for n, labels in enumerate([["a", "b"], ["b"], ["a"]])]
    columns = {name: [row.get(name) for row in rows] for name in ("id", "label", "split")}
    arrays = {name: columns.get(name, [None] * 3) for name in (*schema.names, "excluded")}
    table = pa.table(arrays, schema=schema.append(pa.field("excluded", pa.string())))
    found = SampleTable(table.append_column("status", pa.array(["ok"] * 3)))
    assert stage.choose_classes(View(UNCHANGED, found, {}, ["a"]), PARAMS.validate_) == (["a"], {"b": 2})
    assert found.accepted()["label"].to_pylist() == [["a"], [], ["a"]]


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
    write_sealed_json(entry, known)
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
    with browser() as visit:
        for dark in (False, True):
            shown = visit(out / "index.html", width=390, dark=dark)
            for closed in shown.page.locator("summary").all():
                closed.click()
            assert (shown.small_targets, shown.faint_texts, shown.unnamed_images) == ([], [], 0)
            assert not shown.scrolls_sideways
            ground = shown.page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
            assert ground == ("rgb(24, 32, 44)" if dark else "rgb(255, 255, 255)")
            assert shown.page.locator("td code").first.bounding_box()["height"] < 40, "a name is not cut into pieces"
        assert shown.problems == []
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
    shards.create_dataset(tmp_path, "multiclass")
    image = b"\x89PNG no image"
    row = {"id": sha256_bytes(image), "image": {"bytes": image, "path": None}, "batch": "b-1"}
    name = shards.write_shard(tmp_path, pa.Table.from_pylist([row], schema=sample_schema("multiclass")), "multiclass")
    listed = {"id": row["id"], "batch": "b-1", "shard": name, "row": 0, "reason": "truncated", "detail": ""}
    for status in ("truncated", "ok"):  # and if one slips through, the page is made all the same
        (tile,) = page.tiles(tmp_path, pa.Table.from_pylist([listed | {"status": status}]), 10**6)
        assert tile["image"] is None


def test_a_check_with_an_error_has_not_passed():
    from tasks.stages.validate.table import failures

    assert failures([Check(name="a", status="pass"), Check(name="b", status="error", detail="broke")]) == ["broke"]
