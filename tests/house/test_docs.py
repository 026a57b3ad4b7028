"""Documentation fails when it lies: figures, files, commands, options and settings it names exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from benchmarks.table import page
from flows.cli.main import app
from tasks.common.params import Params
from tests.support.checkout import ROOT
from tests.support.photos import cutouts, encode

TOP = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
SECTIONS = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}
ENTRY = "from flows.cli.main import main; main()"


def test_the_table_of_figures_is_what_the_scripts_wrote():
    text = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m benchmarks.table`"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_file_and_module_a_page_names_exists(file):
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tasks|flows|monitoring|serving|tests|benchmarks|docs|datasets)/[\w./-]*)`", text):
        assert "NAME" in name or (ROOT / name).exists(), f"{file.name} names {name}"
    for name in re.findall(r"\]\((?!http|#)([\w./-]+)", text):
        assert (file.parent / name).exists(), f"{file.name} links to {name}"
    for name in re.findall(r"`((?:tasks|flows|monitoring|serving)\.[a-z_0-9.]+)", text):
        parts = name.rstrip(".").split(".")
        found = [ROOT.joinpath(*parts[:end]) for end in range(2, len(parts) + 1)]
        assert any(path.is_dir() or path.with_suffix(".py").is_file() for path in found), f"{file.name} names {name}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_command_and_option_a_page_names_exists(file):
    for name, rest in re.findall(r"evergreen ([a-z][\w-]*\w)([^`\n|]*)", file.read_text(encoding="utf-8")):
        if file in TOP or name in COMMANDS:
            assert name in COMMANDS, f"{file.name}: evergreen {name}"
            commands = [COMMANDS[name], *getattr(COMMANDS[name], "commands", {}).values()]
            known = {option for command in commands for parameter in command.params for option in parameter.opts}
            named = set(re.findall(r"(?<!\S)(--[a-z-]+)", rest))
            assert named <= known | {"--help"}, f"{file.name}: evergreen {name} has no {named - known}"


def test_the_readme_names_every_command():
    missing = {name for name in COMMANDS if f"evergreen {name}" not in (ROOT / "README.md").read_text()}
    assert not missing, f"README.md does not mention: {missing}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_setting_a_page_names_exists(file):
    for section, key in re.findall(r"`([a-z_0-9]+)\.([a-z_]+)[`:]", file.read_text(encoding="utf-8")):
        if section in SECTIONS and f"{section}.{key}" not in ("data.dvc", "capture.stats"):
            assert key in SECTIONS[section].model_fields, f"{file.name}: params.yaml has no {section}.{key}"


def test_every_benchmark_command_in_the_docs_exists():
    for file in ROOT.glob("docs/**/*.md"):
        for name in re.findall(r"python -m benchmarks\.(\w+)", file.read_text()):
            assert (ROOT / "benchmarks" / f"{name}.py").is_file(), f"{file.name}: benchmarks.{name}"


def test_the_readmes_way_to_a_project_of_ones_own_runs(tmp_path):
    """All of the block but the training, which tests/loop/test_loop.py runs."""
    block = re.search(r"(    make setup.*?evergreen retrain\n)", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    lines = [line.strip() for line in block.splitlines()]
    assert lines[0] == "make setup && . .venv/bin/activate"
    assert lines[-1] == "evergreen retrain"
    for number, image in enumerate(cutouts(24)):
        file = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(image))
    folder = tmp_path / "checkout"
    folder.mkdir()
    for line in lines[1:-1]:
        words = line.replace("~/images", str(tmp_path / "images")).split()
        if words[0] == "cd":
            folder = (folder / words[1]).resolve()
            continue
        assert words[0] == "evergreen"
        run(folder, words[1:])
    assert (folder / "data.dvc").is_file()


def run(folder: Path, arguments: list[str]) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ENTRY, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"evergreen {' '.join(arguments)}: {done.stdout}{done.stderr}"
