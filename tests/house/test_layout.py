"""The house rules that no single module can hold: dvc.yaml, params.yaml and signatures tell the same story."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.repo.run_inputs import JUDGING
from tasks.common.code import CARRIERS, PLUMBING, import_closure, module_file
from tasks.common.params import ParamsError, load_params, parse_params
from tasks.stages.runner import STAGES, sections, stage_module
from tests.support.checkout import ROOT, git

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def python_files(dep: str) -> set[str]:
    """A dependency is a module, or a folder of which the stage needs every module that holds code."""
    if dep.endswith(".py"):
        return {dep}
    return {relative(file) for file in (ROOT / dep).rglob("*.py") if file.name != "__init__.py" or has_code(file)}


def has_code(file: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def test_dvc_yaml_has_exactly_the_stages_in_order():
    assert tuple(DVC) == STAGES


@pytest.mark.parametrize("name", STAGES)
def test_stage_depends_on_exactly_the_code_it_imports(name):
    listed = {file for dep in DVC[name]["deps"] if dep.startswith("tasks/") for file in python_files(dep)}
    needed = {relative(module_file(module)) for module in import_closure(stage_module(name))}
    assert listed == needed, f"dvc.yaml, stage {name}: missing {needed - listed}, superfluous {listed - needed}"


def test_every_template_of_a_stage_is_installed_and_is_a_dependency_of_its_stage():
    """The imports cannot show them: a stage that renders a template must list the folder of both in dvc.yaml."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for file in (Path(one) for one in git(ROOT, "ls-files", "--", "tasks").splitlines()):
        if file.suffix == ".py":
            continue
        owner = next(folder for folder in file.parents if (ROOT / folder / "__init__.py").is_file())
        patterns = declared.get(".".join(owner.parts), [])
        assert any(file.relative_to(owner).match(pattern) for pattern in patterns), f"{file} is not package data"
        listing = [name for name, stage in DVC.items() if f"{owner.as_posix()}/" in stage["deps"]]
        assert owner.name in listing, f"{file}: stage {owner.name} does not list {owner} in dvc.yaml"


def test_the_input_key_covers_the_code_that_judges_a_bundle():
    """What flows.publishing.judge_run uses beyond the code of the stages: a change of it must start a run."""
    of_stages = {module for name in STAGES for module in import_closure(stage_module(name))}
    skip = (
        PLUMBING | CARRIERS | {"tasks.releases.store", "tasks.releases.pointer", "tasks.releases.looks"}
    )  # they bring the champion's bytes and the ledger of looks, unchanged
    judging = set(import_closure("flows.publishing.judge_run", skip=skip)) - of_stages
    assert {relative(module_file(module)) for module in judging} == {
        file for path in JUDGING for file in python_files(path)
    }


@pytest.mark.parametrize("name", STAGES)
def test_stage_declares_exactly_the_params_it_reads(name):
    assert sorted(DVC[name].get("params", [])) == sorted(sections(name))


@pytest.mark.parametrize("name", STAGES)
def test_stage_owns_one_metrics_file_and_one_folder_of_artifacts(name):
    (metrics,) = DVC[name]["metrics"]
    assert list(metrics) == [f"metrics/{name}.json"]
    assert all(out == f"artifacts/{name}" for out in DVC[name]["outs"])
    assert DVC[name]["cmd"] == f"python -m tasks.stages {name}"


def test_shipped_params_load():
    assert load_params(ROOT / "params.yaml").data.task == "multiclass"


def test_every_mistake_in_params_is_reported_at_once_with_its_path():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["images"]["resolution"] = 3
    values["clean"]["fold"] = 5
    values["gate"]["metric"] = "luck"
    with pytest.raises(ParamsError) as error:
        parse_params(values)
    assert all(path in str(error.value) for path in ("images.resolution", "clean.fold", "gate.metric"))
    assert "3 mistake(s)" in str(error.value)


def test_params_yaml_names_every_key_of_the_schema():
    """A key left to its default is a key nobody finds."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, model in load_params(ROOT / "params.yaml").model_dump(by_alias=True).items():
        missing = set(model) - set(values[section])
        assert not missing, f"params.yaml, section {section}: {missing} not shown"
