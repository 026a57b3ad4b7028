"""The release report: whole, self-contained, safe, small, and seen in a real browser."""

import html
import json
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from flows.publishing import diagnose
from flows.publishing.diagnose import first_model_remedies
from flows.publishing.outcomes import Ending
from flows.release_report import charts, facts, heat, stored
from flows.release_report import page as release_page
from flows.release_report.figures import points, words
from flows.release_report.measures import measures
from flows.repo.label_issues import queue_file
from tasks.active.outlook import lines, training_curve
from tasks.common.checks import Check
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.floors import Floor
from tasks.common.params import load_params
from tasks.dataset.shards import iter_bytes, read_paths
from tasks.erasure.files import look
from tasks.erasure.traces import Search, Traces, encoded_prints
from tasks.gate.evidence import Contender, Trial, named_sets
from tasks.gate.judge import judge
from tasks.gate.verdict import GateVerdict
from tasks.inference.thresholds import make_rule
from tasks.labels.storing import write_annotations
from tasks.releases.pointer import successor
from tasks.releases.store import Releases
from tasks.stages.evaluate.figures import Results, by_people
from tasks.storage.local import LocalStore
from tests.support import predictions
from tests.support.annotating import said as annotation
from tests.support.small_project import CLASSES, finished_project

EVIL = "<img src=x onerror=alert(1)>\"'</style></script>"
RUN = "20260101T000000000000-abcdef-1"
LABELS = "22.5% of the training labels look wrong (391); 21 changed; 380 wait in the queue"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run whose every stage is done: the small project, evaluated; labels and quarantine are made interesting."""
    from tasks.stages.bundle import stage
    from tasks.stages.evaluate import stage as evaluate_stage

    root = tmp_path_factory.mktemp("report") / "tree"
    shutil.copytree(finished_project(), root)
    text = (root / "params.yaml").read_text().replace("corruption_images: 300", "corruption_images: 20")
    text = re.sub(r"corruptions: \[.*\]", "corruptions: [dark]", text).replace("resamples: 2000", "resamples: 200")
    (root / "params.yaml").write_text(text.replace("latency_runs: 50", "latency_runs: 3"))
    params = load_params(root / "params.yaml")
    write_json(
        root / "metrics/clean.json", {"actions": {"keep": 57, "relabel": 1, "drop": 1, "queue": 1}, "sentence": LABELS}
    )
    evaluate_stage.run(root, images=params.images, embed=params.embed, evaluate=params.evaluate)
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    doubt_labels(root)
    quarantine(root)
    return root


def doubt_labels(root):
    """Three doubtful training labels, one of each action, and one in the test split."""
    file = root / "artifacts/clean/labels.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    for row, action in zip(train, ("relabel", "drop", "queue"), strict=False):
        row |= {"action": action, "is_issue": True, "quality": 0.1, "confidence": 0.9, "predicted": CLASSES[1]}
    test = next(row for row in rows if row["split"] == "test")
    test |= {"is_issue": True, "quality": 0.2, "confidence": 0.8, "predicted": CLASSES[2]}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


MADE = {"used": 12, "left_out": 5, "classes": {EVIL: {"real": 12, "used": 12, "left_out": 5}}}


def quarantine(root):
    sample = pq.read_table(root / "artifacts/inspect/samples.parquet").slice(0, 1).to_pylist()[0]
    table = {"id": [sample["id"]], "batch": ["b-1"], "reason": ["expectation"], "detail": [EVIL]}
    pq.write_table(pa.table(table), root / "artifacts/validate/quarantine.parquet")
    batch = {"batch": "b-1", "kind": "import", "rows": 144, "accepted": 143}
    write_json(
        root / "artifacts/validate/result.json", {"batches": [batch], "excluded": {"leaks_test": 2}, "synthetic": MADE}
    )
    folder = root / ".evergreen/quarantine"
    folder.mkdir(parents=True, exist_ok=True)
    refused = {"where": [EVIL, "torn.png"], "reason": ["empty_file", "truncated"], "detail": ["0 bytes", None]}
    pq.write_table(pa.table(refused), folder / "b-1.parquet")


@pytest.fixture
def run(project, tmp_path):
    """A workspace of a run: a copy of the project, and a release store of its own."""
    root = tmp_path / "run" / "tree"
    shutil.copytree(project, root)
    return root, load_params(root / "params.yaml"), Releases(LocalStore(tmp_path / "store"))


def first_verdict(root, params) -> GateVerdict:
    predictions = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    challenger = Contender("c" * 64, predictions, read_json(root / "metrics/evaluate.json"))
    return judge(challenger, None, Trial(CLASSES, "multiclass", dict.fromkeys(CLASSES, 20), None), params.gate)


def make_champion(root, params, releases) -> None:
    """The run's own bundle, live as v0.1.0: the next run is compared with it."""
    digest = releases.put_bundle(root / "artifacts/bundle")
    release = {"version": "v0.1.0", "run_id": "earlier", "git_rev": "0" * 40, "bundle": digest}
    releases.promote(successor(None, **release, by="a tester", why="first"))


def second_verdict(root, params, releases) -> GateVerdict:
    """The gate on a challenger that gets three images wrong that the champion has right."""
    from flows.publishing.judge_run import judge_run

    file = root / "artifacts/evaluate/predictions.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    right = [row for row in rows if CLASSES[int(np.argmax(row["probabilities"]))] == row["label"]]
    for row in right[:9:3]:
        row["probabilities"] = np.roll(row["probabilities"], 1).tolist()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    return judge_run(root, params, releases, releases.live())


def erased_from(root, page: bytes) -> None:
    """An erasure takes the tile of a mistake out of the page: its pictures, the heat, the id."""
    (tile, shown), *others = re.findall(
        rb'(<div class="tile"><div class="pair">.*?<code[^>]*>([0-9a-f]{12})</code>)', page, re.S
    )
    samples = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["id", "shard", "row"]).to_pylist()
    (sample,) = (row for row in samples if row["id"].startswith(shown.decode()))
    ((_, encoded),) = iter_bytes(root / "data" / sample["shard"], [sample["row"]])
    search = Search(Traces(ids=[sample["id"]], pictures=encoded_prints([encoded])))
    found = look(page, "report.html", search)
    assert set(found.hits) >= {"id", "picture"}
    assert tile.count(b"data:image/") == 2
    assert not [uri for uri in re.findall(rb"data:image/[^\"]+", tile) if uri in found.rest]
    assert shown not in found.rest
    assert not look(found.rest, "report.html", search).hits
    assert all(other in found.rest for other, _ in others)


def shown_in_the_console(data: dict) -> None:
    """Every part of the console's page can be made from what is stored."""
    from flows.console.shell.page import environment

    parts = environment().get_template("releases/parts.html").make_module({"points": points})
    figures = parts.figures(data, "/releases/x")
    assert all(name in figures for name in CLASSES)
    assert figures.count("<polyline") >= 2 + len(CLASSES)
    assert all(mark["text"] in html.unescape(figures) for mark in data["alone"]["marks"])
    assert all(
        part in figures for part in ("What it can answer alone", "Sets of plausible classes", "Unfamiliar images")
    )
    older = {name: value for name, value in data.items() if name not in ("alone", "plausible", "unfamiliar")}
    assert "What it can answer alone" not in parts.figures(older, "/releases/x")
    assert parts.mistakes(data).count('src="/thumbs/') == len(data["mistakes"])
    assert parts.labels(data).count('src="/thumbs/') == len(data["issues"])
    assert "torn.png" in parts.labels(data)
    if data["champion"]:
        assert "What changed since v0.1.0" in parts.changes(data)
    else:
        assert "nothing to compare with" in parts.changes(data)
    assert data["commands"][0]["lines"][0] in html.unescape(parts.again(data, SimpleNamespace(run_id="x", row=Row())))


class Row:
    bundle = "b" * 64


def test_a_first_release_has_a_page_that_opens_from_disk_and_is_kept_in_the_store(run, tmp_path, visit):
    root, params, releases = run
    verdict = first_verdict(root, params)
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)
    queue = queue_file(root, RUN)
    queue.parent.mkdir(parents=True)
    queue.write_text("id,given\n")
    report = release_page.write(root, params, releases, RUN, ending, reason="the first")
    page = report.path.read_bytes()
    assert len(page) < 3_000_000
    assert releases.store.read(report.key)[0] == page == report.kept.read_bytes()
    assert releases.runs() == {}, "a page is not a record of a run"
    erased_from(root, page)
    data = stored.read_data(releases, RUN)
    assert (data["headline"], data["images"], data["champion"]) == ("v0.1.0 is live", 36, None)
    assert {row["class"] for row in data["recalls"]} == set(CLASSES)
    assert "data:image" not in json.dumps(data)
    assert all(len(one["id"]) == 64 for one in (*data["mistakes"], *data["issues"]))
    content, _ = releases.store.read(stored.key_of(RUN))
    shown_in_the_console(data)
    gone = data["issues"][0]["id"]
    found = look(content, stored.key_of(RUN), Search(Traces(ids=[gone])))
    assert found.hits
    assert gone not in found.rest.decode()
    assert len(json.loads(found.rest)["issues"]) == len(data["issues"]) - 1, "an erasure takes out what is of the image"
    releases.store.swap(stored.key_of(RUN), b"{", releases.store.read(stored.key_of(RUN))[1])
    with pytest.raises(EvergreenError, match="is damaged"):
        stored.read_data(releases, RUN)
    assert stored.read_data(releases, "another") is None
    for options in ({"width": 1280}, {"width": 400, "dark": True}):
        shown = visit(report.path, **options)
        assert shown.problems == []
        assert shown.requests == []
        assert shown.images == shown.images_loaded >= 5
        assert not shown.scrolls_sideways
        assert (shown.small_targets, shown.faint_texts, shown.unnamed_images) == ([], [], 0)
        assert shown.axe_violations == []
        assert "v0.1.0 is live" in shown.text
        assert "the first model: nothing to compare with" in shown.text
        assert "Against None" not in shown.text
        assert "Balanced accuracy in points of 100" in shown.text
        assert shown.text.count("no class is given up") == 1
        floor = shown.page.locator(".check", has_text="test: floor").inner_text()
        assert "at least" in floor
        assert "at most" not in floor
        first = shown.page.locator("h1").bounding_box()
        assert first["y"] < 200
        figures = shown.page.locator(".figures > div")
        assert 4 <= figures.count() <= 6
    closed = shown.page.locator("details:not([open]) > summary")
    while closed.count():
        closed.first.click()
    assert not shown.scrolls_sideways
    text = shown.text
    for expected in (
        "What it can answer alone",
        "Sets of plausible classes",
        "should have it in their set",
        "Unfamiliar images",
        "above a known image in",
        "Cohen's kappa",
        "ROC area, mean of classes",
        "1 changed, 1 left out",
        "22.5% of the training labels look wrong",
        "left out",
        "ask a person",
        "expectation",
        "torn.png",
        "dvc",
        "leaks test",
        "12 were used, 5 left out as too many for their class",
    ):
        assert expected in text, expected
    assert EVIL in text, "a hostile name is shown as it is"
    link = shown.page.locator("a[href='http://127.0.0.1:4280/label/issues']")
    assert link.count() == 1, "the page leads to the images, because some wait"
    again = release_page.write(root, params, releases, RUN, ending, reason="again")
    assert b"again" in releases.store.read(again.key)[0]


def test_a_rejected_challenger_is_shown_next_to_the_champion(run, visit):
    root, params, releases = run
    make_champion(root, params, releases)
    verdict = second_verdict(root, params, releases)
    assert verdict.outcome in ("hold", "reject")
    ending = Ending(outcome="rejected", sentence=verdict.sentence, verdict=verdict)
    start = time.monotonic()
    report = release_page.write(root, params, releases, RUN, ending)
    print(f"{time.monotonic() - start:.1f} s")
    shown = visit(report.path)
    assert shown.problems == []
    assert shown.images == shown.images_loaded
    shown_in_the_console(stored.read_data(releases, RUN))
    assert "Rejected: v0.1.0 stays live" in shown.text
    assert "compared with v0.1.0" in shown.text
    assert shown.page.locator(".axis .dot").count() == sum(check.low is not None for check in verdict.checks)
    assert shown.page.locator(".tile .pair").count() >= 3, "the three planted mistakes"
    assert shown.page.locator("h2", has_text="What changed since v0.1.0").count() == 1
    row = shown.page.locator("tr", has_text="balanced accuracy").first.inner_text()
    checked = next(check for check in verdict.checks if check.name == "test.balanced_accuracy")
    assert points(checked.value) in row, "the page and the gate say the same"
    assert f"{points(checked.low)} to {points(checked.high)}" in row
    assert "Rejected" in report.markdown


def test_doubtful_labels_and_mistakes_show_the_owners_path_and_can_be_enlarged(run, visit):
    root, params, releases = run
    ending = Ending(outcome="held", sentence="hold: it waits", verdict=first_verdict(root, params))
    page = visit(release_page.write(root, params, releases, RUN, ending).path).page
    issues = pq.read_table(root / "artifacts/clean/labels.parquet").filter(pc.field("is_issue"))["id"].to_pylist()
    samples = pq.read_table(root / "artifacts/inspect/samples.parquet").to_pylist()
    (one,) = (row for row in samples if row["id"] == issues[0])
    (path,) = read_paths(root / "data", [one["shard"]], [one["row"]])
    page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
    tile = page.locator(".tile", has_text=path or one["id"][:12]).first
    before = tile.locator("img").first.bounding_box()
    tile.locator("img").first.click()
    after = tile.locator("img").first.bounding_box()
    assert after["width"] > 4 * before["width"], "large enough to see a defect"
    tile.locator("img").first.click()
    assert tile.locator("img").first.bounding_box()["width"] == before["width"]


def test_the_page_says_how_the_images_of_each_set_were_picked(run):
    root, params, releases = run
    for name in ("artifacts/evaluate/predictions.parquet", "artifacts/validate/accepted.parquet"):
        table = pq.read_table(root / name)
        kinds = pa.array([("representative", "audit", None)[int(key[:2], 16) % 3] for key in table["id"].to_pylist()])
        at = table.schema.get_field_index("picked")
        (root / name).unlink()
        pq.write_table(table.set_column(at, table.schema.field("picked"), kinds), root / name)
    predictions = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    sentence = facts.how_picked(root, predictions, named_sets(predictions))
    test = [row["picked"] or "unknown" for row in predictions.to_pylist() if row["split"] == "test"]
    for kind in ("representative", "audit", "unknown"):
        assert f"{test.count(kind)} {kind}" in sentence.split(";")[0]
    assert "unknown" not in next(part for part in sentence.split("; ") if part.startswith("newest batch"))
    assert "drift reference " in sentence
    verdict = first_verdict(root, params)
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)
    page = release_page.write(root, params, releases, RUN, ending, reason="the first").path.read_text()
    assert sentence in page
    assert facts.how_picked(root, predictions.drop_columns(["picked"]), {}) == ""  # of a run before an upgrade


def test_a_measured_learning_curve_is_on_the_page(run):
    root, params, releases = run
    verdict = first_verdict(root, params)
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)

    def page() -> str:
        return html.unescape(release_page.write(root, params, releases, RUN, ending, reason="x").path.read_text())

    assert "What more labels would bring" not in page()
    curve, classes = training_curve(root, params)
    said = lines(curve, classes, params.review.budget, params.review.min_gain)
    assert [line for line in said if f"<li>{line.strip()}</li>" not in page()] == []
    ids = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["id", "split"]).to_pylist()
    one = next(row["id"] for row in ids if row["split"] == "train")
    write_annotations(root / "data", [annotation(one, exclude=True, role="reviewer")])
    assert "What more labels would bring" not in page()  # that curve is of other labels


def test_the_chart_of_what_it_answers_alone_says_how_much_goes_to_people():
    classes = ["a", "b"]
    sure = np.linspace(0.99, 0.51, 100)
    p, said = np.stack([sure, 1 - sure], axis=1), np.zeros(100, int)
    targets = np.where(np.arange(100) >= 80, np.arange(100) % 2, 0)  # half of the least sure answers are wrong
    known = Results(classes, "multiclass", make_rule("multiclass", classes, {}, {}), targets, p, said)
    chart = charts.answered_alone(known, None, by_people(known, [None] * 100))
    texts = [mark["text"] for mark in chart["marks"]]
    assert texts[0] == "90 % right: nothing has to go to people."
    assert re.fullmatch(r"To be 99 % right, 1\d % go to people \(\d+ to \d+\)\.", texts[2])
    assert [tick["text"] for tick in chart["ticks"]] == ["90", "92.5", "95", "97.5", "100"]
    points = [tuple(map(float, point.split(","))) for point in chart["line"].split()]
    assert points[0][0] >= 5 * charts.SIDE / 100, "the first few answers jump"
    assert points[-1] == (charts.SIDE, charts.SIDE), "all together 90 % are right, the bottom of the chart"
    assert charts.answered_alone(known, known, None)["old"] == chart["line"]


def test_costs_and_the_five_likeliest_are_on_the_page_where_there_are_any():
    rng = np.random.default_rng(0)
    classes = list("abcdef")
    targets, p = rng.integers(0, 6, 60), rng.dirichlet(np.ones(6), 60)
    known = Results(classes, "multiclass", make_rule("multiclass", classes, {}, {}), targets, p, p.argmax(axis=1))
    names = {one.name: one.of(known) for one in measures(known, {"a": 7.0})}
    assert names["among the 5 likeliest"] > names["ROC area, mean of classes"] > 0.3
    wrong = targets != known.predicted
    assert names["mean cost"] == pytest.approx((wrong * np.where(targets == 0, 7, 1)).mean())
    assert "mean cost" not in [one.name for one in measures(known, {})]
    few = known._replace(classes=classes[:5], probabilities=p[:, :5], predicted=targets % 5, targets=targets % 5)
    assert "among the 5 likeliest" not in [one.name for one in measures(few, {})]


def test_heat_is_computed_once_per_model(run, monkeypatch):
    root, params, releases = run
    make_champion(root, params, releases)
    verdict = second_verdict(root, params, releases)
    ending = Ending(outcome="rejected", sentence=verdict.sentence, verdict=verdict)
    asked, grad_cam = [], heat._grad_cam

    def counted(*arguments):
        asked.append(arguments)
        return grad_cam(*arguments)

    monkeypatch.setattr(heat, "_grad_cam", counted)
    first, second = (tiles(release_page.write(root, params, releases, RUN, ending)) for _ in range(2))
    assert len(asked) == 1
    assert first == second
    assert len(first) >= 6, "mistakes and their heat"
    (kept,) = (root / ".evergreen/cache/heat").glob("*.parquet")
    whole = kept.read_bytes()
    for place in (10, len(whole) // 2, len(whole) - 6):  # its rows, its last bytes: computed again, and whole
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert tiles(release_page.write(root, params, releases, RUN, ending)) == first
        assert kept.read_bytes() == whole
    assert len(asked) == 4
    head = root / "artifacts/train_head/head.safetensors"
    weights = load_file(head)
    save_file(weights | {"weight": np.ascontiguousarray(weights["weight"][:, ::-1])}, head)
    assert tiles(release_page.write(root, params, releases, RUN, ending)) != first
    assert len(asked) == 5


def tiles(report) -> list[str]:
    return re.findall(r"data:image/[^\"']+", report.path.read_text())


def test_hostile_names_stay_text_everywhere(run, visit):
    """Class names, reason, sentence, check details: nothing of them becomes markup, on the page or in Prefect."""
    root, params, releases = run
    verdict = first_verdict(root, params)
    checks = [*verdict.checks, Check(name=f"class.{EVIL}.recall", status="error", detail=EVIL)]
    verdict = verdict.model_copy(update={"checks": checks})
    rename(root, CLASSES[0], EVIL)
    ending = Ending(outcome="held", sentence=f"hold: {EVIL}", verdict=verdict)
    report = release_page.write(root, params, releases, RUN, ending, reason=EVIL)
    assert "<img src=x" not in report.path.read_text()
    assert "<" not in report.markdown
    shown = visit(report.path, width=400)
    assert shown.problems == []
    assert shown.images == shown.images_loaded
    assert shown.text.count(EVIL) >= 3
    assert not shown.scrolls_sideways


def rename(root, old: str, new: str) -> None:
    """Call class `old` `new` in everything the report reads."""
    for name in ("artifacts/validate/classes.json", "artifacts/bundle/bundle.json"):
        file = root / name
        file.write_text(file.read_text().replace(json.dumps(old), json.dumps(new)))
    for name, columns in (("evaluate/predictions", ["label"]), ("clean/labels", ["given", "label", "predicted"])):
        file = root / f"artifacts/{name}.parquet"
        table = pq.read_table(file)
        rows = [{k: new if k in columns and v == old else v for k, v in row.items()} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def test_the_page_forbids_scripts_and_everything_from_elsewhere(run):
    root, params, releases = run
    verdict = first_verdict(root, params)
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)
    page = release_page.write(root, params, releases, RUN, ending).path.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split(";") if rule.strip())
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "url(" not in page


def test_a_run_without_verdict_has_no_report(run):
    root, params, releases = run
    with pytest.raises(EvergreenError, match="no release report"):
        release_page.write(root, params, releases, RUN, Ending(outcome="unchanged", sentence="as before"))


def test_multi_label_models_have_a_page_too(tmp_path, visit):
    from tasks.stages.bundle import stage
    from tasks.stages.evaluate import stage as evaluate_stage

    root = tmp_path / "run" / "tree"
    shutil.copytree(finished_project("multilabel"), root)
    params = load_params(root / "params.yaml")
    fewer = params.evaluate.model_copy(update={"corruptions": ["dark"], "latency_runs": 2})
    write_json(root / "metrics/clean.json", {"actions": {"keep": 60}})
    evaluate_stage.run(root, images=params.images, embed=params.embed, evaluate=fewer)
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    pq.write_table(
        pa.table({"id": [], "batch": [], "reason": [], "detail": []}), root / "artifacts/validate/quarantine.parquet"
    )
    write_json(root / "artifacts/validate/result.json", {"batches": [], "excluded": {}})
    verdict = GateVerdict(
        outcome="promote", sentence="promote: fine.", checks=[], challenger="c" * 64, champion=None, hard_set=None
    )
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)
    report = release_page.write(root, params, Releases(LocalStore(tmp_path / "store")), RUN, ending)
    shown = visit(report.path)
    assert shown.problems == []
    assert shown.images == shown.images_loaded
    assert "macro F1" in shown.text


def test_too_large_a_page_gives_up_images_not_figures(monkeypatch, run):
    root, params, releases = run
    verdict = first_verdict(root, params)
    ending = Ending(outcome="promoted", sentence=verdict.sentence, version="v0.1.0", verdict=verdict)
    whole = release_page.write(root, params, releases, RUN, ending).path.read_text()
    limit = len(whole.encode()) - 500
    monkeypatch.setattr(release_page, "LARGEST", limit)
    page = release_page.write(root, params, releases, RUN, ending).path.read_text()
    assert len(page.encode()) <= limit
    assert page.count("<img") < whole.count("<img")
    assert page.count('class="check"') == whole.count('class="check"')


# --- array-level cores


def test_forest_puts_zero_in_the_middle_and_everything_on_one_scale():
    def check(name, value, low, high, bound):
        return Check(name=name, status="pass", value=value, low=low, high=high, bound=bound)

    checks = [
        check("test", 0.04, 0.02, 0.06, 0.0),
        check("hard", -0.08, -0.2, 0.04, -0.02),
        Check(name="size_mb", status="pass", value=50, bound=100),
        Check(name="hard_set", status="pass", detail="none"),
    ]
    gain, loss, bound, fact = charts.forest(checks)
    assert gain["kind"] == loss["kind"] == "difference"
    assert gain["limit"] == loss["limit"]
    assert gain["bound"] == 50
    assert gain["value"] - 50 == pytest.approx((50 - loss["value"]) / 2, abs=0.05)
    assert gain["low"] < gain["value"] < gain["low"] + gain["width"]
    assert loss["low"] >= 0
    assert (bound["fill"], bound["mark"]) == (40, 80)
    assert fact == {"kind": "fact"}


def test_a_floor_has_an_axis_of_its_own():
    checks = [
        Check(
            name="floor.class.Bag.recall", status="pass", value=0.9, low=0.8, high=0.95, bound=0.85, detail="met: 0.9"
        ),
        Check(name="floor.test.cost", status="fail", value=1.5, low=1.0, high=2.0, bound=1.2, detail="below: 1.5"),
        Check(name="floor.class.Bag.recall.kept", status="pass", value=0.02, low=-0.01, high=0.05, bound=0.0),
        Check(name="floor.class.Boot.recall", status="pass", bound=0.9, detail="unproven: there are no images"),
    ]
    recall, cost, kept, nothing = charts.forest(checks)
    assert recall == {"kind": "floor", "low": 80, "width": 15, "value": 90, "bound": 85}
    assert cost == {"kind": "floor", "low": 50, "width": 50, "value": 75, "bound": 60}
    assert (kept["kind"], nothing["kind"]) == ("difference", "fact")
    assert kept["limit"] < 0.1, "a floor's figure does not widen the axis of differences"


def test_the_page_shows_floors_with_their_state(run):
    root, params, releases = run
    floors = [Floor(class_="Bag", recall=0.01), Floor(class_="Bag", precision=1.0), Floor(accuracy=0.999)]
    gate = params.gate.model_copy(update={"floors": floors})
    verdict = first_verdict(root, params.model_copy(update={"gate": gate}))
    ending = Ending(outcome="rejected", sentence=verdict.sentence, verdict=verdict)
    text = release_page.write(root, params, releases, RUN, ending).path.read_text()
    assert "Floors, from 0 to 1" in text
    assert "floor: recall of class Bag" in text
    assert "met: recall " in text
    assert "ails floor, accuracy on the test set (missed: " in text, "the headline's sentence has plain words"


def test_differences_name_what_came_went_and_changed():
    old = {"a": {"x": 1, "y": [1]}, "gone": 2, "same": {"z": None}}
    new = {"a": {"x": 1, "y": [1, 2]}, "came": {"deep": True}, "same": {"z": None}}
    assert facts.differences(old, new) == [("a.y", [1], [1, 2]), ("came.deep", None, True), ("gone", 2, None)]


def test_a_change_is_better_only_when_luck_is_left_out():
    row = facts.Row("test set", "accuracy", 100, 0.8, 0.7, 0.9, 0.7, 0.02, 0.18)
    assert row.trend == "better"
    assert row._replace(change_low=-0.02).trend == "same"
    assert row._replace(higher_is_better=False).trend == "worse"
    assert row._replace(old=None).trend == "unknown"


def test_points_have_no_signed_zero():
    assert [points(value) for value in (-0.0004, 0.0, 0.025, -0.3, None)] == [
        "0.0",
        "0.0",
        "+2.5",
        "−30.0",
        "–",
    ]


def test_the_sentence_names_checks_in_plain_words():
    failed = Check(name="class.Bag.recall", status="fail", value=-0.3, low=-0.4, high=-0.2)
    said = release_page._sentence("reject: fails class.Bag.recall -30.0 points.", [failed])
    assert said == "Fails class Bag, recall -30.0 points."


def test_words_of_checks():
    assert words("class.Ankle boot v1.2.recall") == "class Ankle boot v1.2: recall"
    assert words("slice:light=dim.balanced_accuracy") == "slice light=dim: balanced accuracy"
    assert words("corruptions.blur.accuracy") == "under blur: accuracy"
    assert words("size_mb") == "size of the model, MB"


def test_the_page_says_that_a_model_is_provisional_and_that_a_probe_won():
    verdict = GateVerdict(outcome="promote", sentence="x", checks=[], challenger="c", champion=None, hard_set=None)
    trained = {"metrics": {"train_head": {"network": "trained", "probe_lead": -0.1, "probe_lead_error": 0.02}}}
    assert release_page.notes(trained, verdict) == []
    advised = {"metrics": {"train_head": {"advice": ["All 8 images come from one source."]}}}
    assert release_page.notes(advised, verdict) == ["All 8 images come from one source."]
    probe = {"metrics": {"train_head": {"network": "pretrained", "probe_lead": 0.123, "probe_lead_error": 0.02}}}
    first, second = release_page.notes(probe, verdict.model_copy(update={"provisional": True}))
    assert "provisional" in first
    assert "12.3 points better" in second
    assert release_page.notes({"metrics": {}}, verdict) == []  # an adopted model
    ending = Ending(outcome="promoted", sentence="x", version="v0.1.0", verdict=verdict)
    assert release_page.headline(ending) == "{version} is live"
    weak = ending.model_copy(update={"verdict": verdict.model_copy(update={"provisional": True})})
    assert release_page.headline(weak) == "{version} is live, provisionally"
    siblings = {"with": None, "sentence": "no test image has a sibling in train"}
    assert release_page.notes({"metrics": {"evaluate": {"siblings": siblings}}}, verdict) == []
    siblings = {"with": {"n": 9}, "sentence": "accuracy 90.0 % overall, 71.0 % on the others"}
    (note,) = release_page.notes({"metrics": {"evaluate": {"siblings": siblings}}}, verdict)
    assert "accuracy 90.0 % overall, 71.0 % on the others. If they are right, record groups" in note


def test_the_page_of_a_rejected_first_model_says_what_to_do(project, tmp_path):
    """The remedies come from the run's own files; their commands are set as code."""
    params = load_params(project / "params.yaml")
    strict = params.gate.model_copy(update={"first_model": {"test.balanced_accuracy": 0.999}})
    classes = read_json(project / "artifacts/validate/classes.json")
    own = Contender(
        "c" * 64,
        pq.read_table(project / "artifacts/evaluate/predictions.parquet"),
        read_json(project / "metrics/evaluate.json"),
    )
    verdict = judge(own, None, Trial(classes, "multiclass", dict.fromkeys(classes, 20), None), strict)
    todo = first_model_remedies(project, params, RUN, verdict)
    assert todo[0].kind == "setting"
    assert todo[-1].kind == "override"
    assert diagnose.collect(project, params, RUN).test.images == 36
    assert diagnose.unseen_skill(project).images > 50
    assert first_model_remedies(project, params, RUN, verdict.model_copy(update={"champion": "v1"})) == []

    ending = Ending(outcome="rejected", sentence=verdict.sentence, verdict=verdict, remedies=todo)
    written = release_page.write(project, params, Releases(LocalStore(tmp_path / "store")), RUN, ending)
    page = written.path.read_text()
    assert "<code>gate.first_model: null</code>" in page
    assert f"<code>evergreen promote {RUN} --override" in page
    assert "1. It misses a floor" in written.markdown


def test_the_page_shows_the_answers_that_each_models_weights_give():
    about = {
        "task": "multiclass",
        "classes": predictions.CLASSES,
        "thresholds": {},
        "params": {"evaluate": {"many_shot": 100, "few_shot": 20}},
        "data": {"images": {"train": dict.fromkeys(predictions.CLASSES, 50)}},
    }
    rows = predictions.table(predictions.TARGETS, predictions.OLD)
    found = facts.pair(rows, rows, about | {"weights": {"Boot": 100.0}}, about, predictions.CLASSES)
    assert set(found.new.predicted.tolist()) == {predictions.CLASSES.index("Boot")}
    assert found.old.predicted.tolist() == predictions.OLD.tolist()


def test_the_page_says_how_probabilities_were_calibrated_and_what_that_changed():
    bins = {"count": [50, 50], "confidence": [0.6, 0.9], "accuracy": [0.4, 0.8]}
    evaluated = {
        "uncalibrated": {"debiased_ece": 0.15, "log_loss": 0.7, "reliability": bins},
        "test": {"debiased_ece": 0.01, "log_loss": 0.5},
    }
    how = {"method": "classwise", "why": "held-out log-loss 0.5000 against 0.7000 uncalibrated"}
    found = charts.calibrated({"metrics": {"evaluate": evaluated, "calibrate": {"scaling": how}}})
    assert found["line"].count(",") == 2
    assert "each class (held-out log-loss 0.5000 against 0.7000 uncalibrated)" in found["sentence"]
    assert found["sentence"].endswith("calibration error 15.0 % before, 1.0 % after.")
    assert charts.calibrated({"metrics": {"evaluate": {"test": {}}, "calibrate": {}}}) is None
