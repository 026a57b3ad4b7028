"""Documentation fails when it lies: figures, files and commands it names exist."""

import re

from benchmarks.table import page
from flows.cli.main import app
from tests.support.checkout import ROOT

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]


def test_the_table_of_figures_is_what_the_scripts_wrote():
    text = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m benchmarks.table`"


def test_every_file_and_module_the_pages_name_exists():
    for file in PAGES:
        for name in re.findall(
            r"`((?:tasks|flows|serving|tests|benchmarks|docs|datasets)/[\w./-]*)`", file.read_text()
        ):
            assert (ROOT / name).exists(), f"{file.name} names {name}"
        for name in re.findall(r"\]\((?!http)([\w./-]+)\)", file.read_text()):
            assert (ROOT / name).exists(), f"{file.name} links to {name}"


def test_every_evergreen_command_in_the_pages_exists_and_each_is_in_the_readme():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    for file in PAGES:
        for name in re.findall(r"evergreen (\w+)", file.read_text()):
            assert name in commands, f"{file.name}: evergreen {name}"
    readme = (ROOT / "README.md").read_text()
    missing = {name for name in commands if f"evergreen {name}" not in readme}
    assert not missing, f"README.md does not mention: {missing}"


def test_every_benchmark_command_in_the_docs_exists():
    for file in ROOT.glob("docs/**/*.md"):
        for name in re.findall(r"python -m benchmarks\.(\w+)", file.read_text()):
            assert (ROOT / "benchmarks" / f"{name}.py").is_file(), f"{file.name}: benchmarks.{name}"
