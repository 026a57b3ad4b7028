"""Every key of params.yaml takes effect: a change of it runs exactly the stages that read it, and is never restored.

The pipeline here is the real dvc.yaml with its params, outputs and order, in a real DVC repository; only the bodies of
the stages are replaced by markers. Code dependencies are left out: tests/test_layout.py holds those.
"""

import os
import shutil
import subprocess
import types
from collections.abc import Iterator
from contextlib import chdir
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from flows.repo.pipeline import _restored, bring_up_to_date, open_repo
from tasks.common.errors import ParamsError
from tasks.common.params import STAGE_SECTIONS, Params, Section, load_params, load_run_params, parse_params
from tasks.stages.runner import STAGES
from tests.support.checkout import ROOT

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SHIPPED = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
COSTS = {"calibrate": SHIPPED["calibrate"] | {"cost_false_negative": {"Bag": 2.0}}}
ORIGINAL = SHIPPED | COSTS
Path_ = tuple[str | int, ...]


def keys(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every key in `value`, down to the leaves; of a list of mappings, the first one's."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from keys(value[0], (*path, 0))
    else:
        yield path


def at(values: Any, path: Path_) -> Any:
    for key in path:
        values = values[key]
    return values


def set_at(values: dict, path: Path_, value: Any) -> dict:
    changed = deepcopy(values)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def words(annotation: Any) -> Iterator[str]:
    """Every word that some Literal of the schema allows."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Section):
            for field in annotation.model_fields.values():
                yield from words(field.annotation)
        return
    for argument in get_args(annotation):
        if isinstance(argument, str):
            yield argument
        else:
            yield from words(argument)


WORDS = sorted(set(words(Params)))


def changed(path: Path_) -> dict:
    """ORIGINAL with another valid value of the key at `path`; a stage's key without the sections no stage reads."""
    old = at(ORIGINAL, path)
    if path[:2] == ("data", "split") and path[-1] != "by":  # the shares add up to 1
        split = ORIGINAL["data"]["split"]
        other = "test" if path[-1] != "test" else "train"
        return set_at(BASE, path[:2], split | {path[-1]: old - 0.05, other: split[other] + 0.05})
    candidates: list[Any]
    if path in PARSED:
        candidates = [PARSED[path]]
    elif isinstance(old, bool):
        candidates = [not old]
    elif isinstance(old, int | float):
        candidates = [old + 1, old - 1, old / 2, old + 0.01]
    elif isinstance(old, str):
        candidates = [*(word for word in WORDS if word != old), "another"]
    elif isinstance(old, list):
        candidates = [*([*old[:1], word] for word in WORDS if word not in old), [*old[:-1], 4], ["another"], old[:1]]
    else:
        candidates = [["a", "b"], "another", {"test.accuracy": 0.3}, 12]
    for value in candidates:
        found = set_at(ORIGINAL, path, value)
        try:
            if parse_params(found) != parse_params(ORIGINAL):
                return found if path in OTHER_KEYS else {name: found[name] for name in STAGE_SECTIONS}
        except ParamsError:
            continue
    raise AssertionError(f"no other valid value of {path} is known here: {old!r}")


def dotted(path: Path_) -> str:
    return ".".join(map(str, path))


KEYS = list(keys(ORIGINAL))
STAGE_KEYS = [path for path in KEYS if path[0] in STAGE_SECTIONS]
OTHER_KEYS = [path for path in KEYS if path[0] not in STAGE_SECTIONS]
RESOLUTION = ("images", "resolution")
PARSED = {
    ("gate", "floors"): [{"accuracy": 0.5}],
    ("train_backbone", "start_bundle"): "a" * 64,
    ("data", "time_format"): "%d.%m.%Y",
    ("train_backbone", "domain"): "medical",
    ("train_backbone", "mix"): ["mixup"],
    ("train_backbone", "resolution_schedule"): [0.5, 1.0],
    ("data", "time_zone"): "Europe/Berlin",
    ("serve", "public_url"): "https://evergreen.example.com",
    ("serve", "proxies"): ["10.0.0.7"],
    ("scale", "address"): "auto",
}
DEPS = {Path(path) for stage in DVC.values() for path in stage["deps"]}
USED = sorted(path.as_posix() for path in DEPS if path.parts[0] == "artifacts" and path.suffix)  # files of outputs
BASE = {name: ORIGINAL[name] for name in STAGE_SECTIONS}  # DVC parses the file some 30 times for each change


class Project:
    """The pipeline over markers; opened once, because opening a DVC repository costs half a second."""

    def __init__(self, root: Path):
        self.root = root
        for folder in (".dvc", "data/batches"):
            (root / folder).mkdir(parents=True)
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
        (root / "data/dataset.json").write_text("{}\n")
        (root / "data/batches/000001-b-1.json").write_text("{}\n")
        (root / "tombstones.json").write_text("{}\n")
        stages = deepcopy(DVC)
        for stage in stages.values():
            stage["deps"] = [path for path in stage["deps"] if not path.startswith("tasks/")]
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        self.write(BASE)
        self.repo = open_repo(root)
        self.said: dict[str, str] = {}  # what another file than usual holds

    def write(self, values: dict) -> None:
        file = self.root / "params.yaml"
        at = file.stat().st_mtime_ns + 10**7 if file.exists() else None
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        if at:
            os.utime(file, ns=(at, at))

    def bring(self, name: str) -> str:
        self.repo._reset()
        return bring_up_to_date(self.repo, name, self._marker)

    def _marker(self, name: str, root: Path) -> None:
        """What stage `name` leaves: the same whatever its params are, so that later stages do not change by it."""
        load_run_params(root / "params.yaml")
        (root / "artifacts" / name).mkdir(parents=True)
        used = [path for path in USED if path.startswith(f"artifacts/{name}/")]
        used += [path for path in self.said if path.startswith(f"artifacts/{name}/")]
        for path in [f"artifacts/{name}/marker", *used]:
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(self.said.get(path, name))
        (root / "metrics").mkdir(exist_ok=True)
        (root / "metrics" / f"{name}.json").write_text("{}\n")

    def to_run(self) -> set[str]:
        """Names of the stages that would run now: changed, and not in the run cache."""
        self.repo._reset()
        with chdir(self.root), self.repo.lock:
            stages = [stage for stage in self.repo.index.stages if stage.addressing in STAGES]
            stale = [stage for stage in stages if stage.changed()]
            return {stage.name for stage in stale if not _restored(self.repo, stage)}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project(tmp_path_factory.mktemp("params") / "project")
    assert [made.bring(name) for name in STAGES] == ["ran"] * len(STAGES)
    assert [made.bring(name) for name in STAGES] == ["unchanged"] * len(STAGES)
    return made


def readers(section: str) -> set[str]:
    return {name for name in STAGES if section in DVC[name]["params"]}


# the first key of each section in `make test`, because DVC takes most of a second for each; all of them in `make long`
FIRST = {path[0]: path for path in reversed(STAGE_KEYS)}
SPREAD = [path if FIRST[path[0]] == path else pytest.param(path, marks=pytest.mark.long) for path in STAGE_KEYS]


@pytest.mark.parametrize("path", SPREAD, ids=dotted)
def test_a_change_of_a_key_runs_exactly_the_stages_that_read_it(project, path):
    """Nothing is restored either, although the outputs of the original values are in the run cache."""
    project.write(changed(path))
    assert project.to_run() == readers(path[0])


def test_a_change_of_any_key_is_a_change_to_dvc(tmp_path):
    """DVC compares sections as it reads them, and looks up their hash in the run cache: so one key stands for all."""
    from dvc.stage.cache import _get_cache_hash
    from dvc.utils.serialize import load_yaml

    def seen(section: str, values: dict) -> tuple[dict, str]:
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump({section: values[section]}, sort_keys=False))
        read = load_yaml(str(file))
        return read, _get_cache_hash({"params": {"params.yaml": read}}, key=True)

    before = {section: seen(section, BASE) for section in STAGE_SECTIONS}
    for path in STAGE_KEYS:
        section = path[0]
        read, key = seen(section, changed(path))
        assert read != before[section][0], dotted(path)
        assert key != before[section][1], dotted(path)


def test_a_change_of_what_no_stage_reads_runs_no_stage(project):
    values = ORIGINAL
    for path in OTHER_KEYS:
        values = set_at(values, path, at(changed(path), path))
    project.write(values)
    assert project.to_run() == set()


def test_going_back_to_earlier_values_restores_what_they_made(project):
    for values, outcome in ((BASE, "unchanged"), (changed(RESOLUTION), "ran"), (BASE, "restored")):
        project.write(values)
        assert project.bring("inspect") == outcome


def test_a_label_runs_validate_and_what_uses_labels_never_inspect_or_embed(project):
    """A confirmation, which changes no label, runs `clean` and trains nothing."""
    project.write(BASE)
    (project.root / "data/annotations/batches").mkdir(parents=True)
    (project.root / "data/annotations/batches/000002-l-1.json").write_text("{}\n")
    assert project.to_run() == {"validate"}
    project.said = {"artifacts/validate/network/confirmed.parquet": "confirmed"}
    assert project.bring("validate") == "ran"
    assert project.to_run() == {"clean"}
    (project.root / "data/annotations/batches/000003-l-2.json").write_text("{}\n")
    accepted = ("artifacts/validate/accepted.parquet", "artifacts/validate/network/accepted.parquet")
    project.said = dict.fromkeys(accepted, "another label")
    assert project.bring("validate") == "ran"
    later = {"clean", "train_backbone", "train_head", "calibrate", "evaluate", "bundle"}
    assert project.to_run() == later
    shutil.rmtree(project.root / "data/annotations")
    project.said = {}
    assert project.bring("validate") == "restored"


def test_a_change_of_classes_runs_validate_and_the_stages_from_the_head_on(project):
    project.write(BASE)
    (project.root / "data/annotations/taxonomy").mkdir(parents=True)
    (project.root / "data/annotations/taxonomy/000001-x.json").write_text("{}\n")
    assert project.to_run() == {"validate"}
    project.said = {"artifacts/validate/accepted.parquet": "merged", "artifacts/validate/taxonomy.json": "{}"}
    assert project.bring("validate") == "ran"
    assert project.to_run() == {"train_head", "calibrate", "evaluate", "bundle"}
    shutil.rmtree(project.root / "data/annotations")
    project.said = {}
    assert project.bring("validate") == "restored"


def test_the_old_name_of_the_resolution_is_read_but_not_run_with(project):
    images = {"size" if key == "resolution" else key: value for key, value in ORIGINAL["images"].items()}
    project.write(ORIGINAL | {"images": images})
    assert load_params(project.root / "params.yaml").images.resolution == ORIGINAL["images"]["resolution"]
    with pytest.raises(ParamsError, match=r"images\.size \(64\), the old name of images\.resolution.*rename it"):
        project.bring("inspect")


def test_both_names_of_the_resolution_are_an_error():
    with pytest.raises(ParamsError, match=r"both `resolution` \(64\) and its old name `size` \(48\)"):
        parse_params(set_at(ORIGINAL, ("images", "size"), 48))


def test_a_section_that_dvc_needs_and_the_file_lacks_is_refused_before_the_stage_runs(project):
    values = set_at(ORIGINAL, ("inspect", "near_duplicate_difference"), 5.5)
    project.write({name: section for name, section in values.items() if name != "clean"})
    assert load_params(project.root / "params.yaml").clean.folds == 5
    with pytest.raises(ParamsError, match=r"lacks the section\(s\) clean.*clean: \{'folds': 5"):
        project.bring("inspect")


def test_the_schema_knows_which_sections_stages_read():
    assert {name for stage in DVC.values() for name in stage["params"]} == set(STAGE_SECTIONS)


@pytest.mark.parametrize("key", ["size", "nfiles"])
def test_keys_that_dvc_drops_are_refused_and_classes_of_that_name_can_be_listed(project, key):
    mapped = set_at(ORIGINAL, ("calibrate", "cost_false_negative"), {key: 3.0})
    with pytest.raises(ParamsError, match=rf"write the costs as a list: \[{{class: {key}, cost: ...}}\]"):
        parse_params(mapped)
    for cost in (2.0, 3.0):
        values = set_at(ORIGINAL, ("calibrate", "cost_false_negative"), [{"class": key, "cost": cost}])
        assert parse_params(values).calibrate.cost_false_negative == {key: cost}
        project.write(values)
        assert project.bring("calibrate") == "ran"
    project.write(BASE)
    assert project.bring("calibrate") == "restored"


@pytest.mark.parametrize("listed", [[{"class": "a"}], ["a"], [{"class": "a", "cost": 1}, {"class": "a", "cost": 2}]])
def test_a_wrong_list_of_costs_is_refused(listed):
    with pytest.raises(ParamsError, match=r"cost_false_negative: .*(expected a list of|is listed twice)"):
        parse_params(set_at(ORIGINAL, ("calibrate", "cost_false_negative"), listed))


KWARGS = ("validate", "expectations", 0, "kwargs")


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ("{size: 1}", "DVC ignores keys named 'size'"),
        ("{a: [{nfiles: 1}]}", "DVC ignores keys named 'nfiles'"),
        ("{a: {1: 2}}", "the key 1 is not text"),
        ("{a: 2024-01-01}", r".*found datetime\.date\(2024, 1, 1\) \(date\): quote it"),
        ("{a: .nan}", "expected a finite number, found nan"),
        ("{a: -.inf}", "expected a finite number, found -inf"),
        ("&x {a: *x}", "nested more than 20 levels deep"),
    ],
)
def test_what_dvc_would_drop_mix_up_or_fail_on_is_refused(tmp_path, kwargs, says):
    text = yaml.safe_dump(set_at(ORIGINAL, KWARGS, "HERE")).replace("HERE", kwargs)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=rf"validate\.expectations\.0\.kwargs\S*: {says}"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_numbers_are_finite_in_every_section(tmp_path, number):
    text = (ROOT / "params.yaml").read_text().replace("max_latency_ms: 200.0", f"max_latency_ms: {number}")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"max_latency_ms: .*finite number"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("0.1_5", 0.15), ("1E-2", 0.01), ("010", 10), ("0o10", 8), ("0x10", 16), ("1_0", 10), ("3.0", 3)],
)
def test_numbers_mean_to_the_schema_what_they_mean_to_dvc(tmp_path, text, value):
    """PyYAML takes 010 for eight and 1e-3 for text; DVC's parser does not."""
    from dvc.utils.serialize import load_yaml

    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text().replace("learning_rate: 0.005", f"learning_rate: {text}"))
    assert load_yaml(str(file))["train_backbone"]["learning_rate"] == value
    assert load_params(file).train_backbone.learning_rate == value


@pytest.mark.parametrize(
    "text", ["images: {fit: pad}\nimages: {fit: crop}\n", "gate: {a: 12:30}\n", "data: 2024-02-31\n"]
)
def test_yaml_that_dvc_cannot_read_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_values_that_dvc_takes_for_equal_are_equal_to_the_schema():
    """1 == 1.0 == true: DVC sees no change, so there must be none."""
    assert len({parse_params(set_at(ORIGINAL, ("clean", "seed"), one)).clean.seed for one in (1, 1.0, True)}) == 1
