"""Import closures and code versions: of a toy package, and the rules for every cache key of this repository."""

import ast
import textwrap
from pathlib import Path

import pytest

from tasks.common.code import CARRIERS, PACKAGES, PLUMBING, code_version, import_closure, module_file, without_comments
from tasks.stages.runner import STAGES, stage_module
from tests.support.checkout import ROOT

SOURCES = sorted(file for name in ("tasks", "serving", "monitoring", "flows") for file in (ROOT / name).rglob("*.py"))

TOY = {
    "tasks/__init__.py": '"""Only a docstring."""\n',
    "tasks/train.py": """
        from typing import TYPE_CHECKING
        from tasks.common.files import write
        from tasks.stages import clean
        if TYPE_CHECKING:
            from tasks.common.unused import Type
        else:
            import tasks.common.checked
        def run():
            try:
                pass
            finally:
                with open("x"):
                    from tasks.common import late, CONSTANT
    """,
    "tasks/common/__init__.py": '"""Common."""\n\nCONSTANT = 1\n',
    "tasks/common/files.py": "import os\n",
    "tasks/common/late.py": "from . import helper\nfrom .files import write\nfrom ..stages.clean import stage\n",
    "tasks/common/helper.py": "",
    "tasks/common/checked.py": "import serving.answers\nimport flows.cli.main\n",
    "tasks/common/unused.py": "",
    "tasks/stages/__init__.py": "",
    "tasks/stages/clean/__init__.py": '"""Clean."""\n',
    "tasks/stages/clean/stage.py": "import tasks.train  # a circle\n",
    "serving/__init__.py": "",
    "serving/answers.py": "",
    "flows/cli/main.py": "import tasks.common.unused\n",
}


@pytest.fixture
def toy(tmp_path) -> Path:
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def test_a_closure_follows_nested_packages_late_and_relative_imports_and_circles(toy):
    assert import_closure("tasks.train", root=toy) == [
        "serving.answers",
        "tasks.common",  # its __init__.py holds code
        "tasks.common.checked",
        "tasks.common.files",
        "tasks.common.helper",
        "tasks.common.late",
        "tasks.stages.clean.stage",
        "tasks.train",
    ]


def test_what_is_skipped_is_not_followed_either(toy):
    found = import_closure("tasks.train", root=toy, skip={"tasks.common.late", "tasks.common.checked"})
    assert found == ["tasks.common", "tasks.common.files", "tasks.train"]


def test_an_entry_outside_the_packages_is_followed_into_them(toy):
    assert import_closure("flows.cli.main", root=toy) == ["flows.cli.main", "tasks.common", "tasks.common.unused"]


def test_an_unknown_module_is_an_error(toy):
    with pytest.raises(ValueError, match=r"'tasks\.nothing': expected .*nothing\.py or "):
        import_closure("tasks.nothing", root=toy)
    (toy / "tasks/common/files.py").write_text("import tasks.gone\n")
    with pytest.raises(ValueError, match=r"'tasks\.gone'"):
        import_closure("tasks.train", root=toy)


CODE = '''"""A module."""

import os

PAGE = """
# a heading

    text"""


class Empty:
    """Nothing."""


def double(x):
    """Twice."""
    return 2 * x  # a comment


async def word():
    return "#" + '"' + f"{PAGE!r} # {os.sep}"
'''


def version(folder: Path, code: str) -> str:
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks/__init__.py").touch()
    (folder / "tasks/one.py").write_text("from tasks import two\n")
    (folder / "tasks/two.py").write_text(code)
    code_version.cache_clear()
    return code_version("tasks.one", root=folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""\n', ""),
        ('"""A module."""', '"""A module\n\nof two paragraphs, with "quotes" and a # sign."""'),
        ("Twice.", "Two times."),
        ("  # a comment", ""),
        ("import os\n", "import os  # noqa\n\n\n# the page\n"),
        ("    return 2", "    # why\n\n    return 2"),
        ('    """Twice."""\n', ""),
        ('    """Twice."""\n', "    r'''Twice.'''\n"),
    ],
)
def test_prose_leaves_the_version(tmp_path, old, new):
    assert old in CODE
    assert version(tmp_path, CODE) == version(tmp_path, CODE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * x", "3 * x"),
        ("# a heading\n\n", "# a heading\n"),  # inside a string that is a value
        ("# a heading", "# another"),
        ("    text", "  text"),
        ('"#"', '"# "'),
        ("# {os.sep}", "# {os.linesep}"),
        ("async ", ""),
        ("import os\n", "import os\nimport sys\n"),
    ],
)
def test_code_changes_the_version(tmp_path, old, new):
    assert old in CODE
    assert version(tmp_path, CODE) != version(tmp_path, CODE.replace(old, new, 1))


@pytest.mark.parametrize("skipped", sorted(PLUMBING | CARRIERS))
def test_what_carries_values_is_no_part_of_a_version(tmp_path, skipped):
    file = tmp_path.joinpath(*skipped.split(".")).with_suffix(".py")
    if skipped == "tasks":
        file = tmp_path / "tasks/__init__.py"
    use = f"import {skipped}\n"
    first = version(tmp_path, use) if skipped == "tasks" else None
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in file.relative_to(tmp_path / "tasks").parents[:-1]:
        (tmp_path / "tasks" / folder / "__init__.py").touch()
    file.write_text("value = 1\n")
    first = first or version(tmp_path, use)
    file.write_text("value = 2\n")
    assert version(tmp_path, use) == first


def test_removing_comments_changes_no_code_of_this_repository():
    for file in SOURCES:
        source = file.read_text()
        assert ast.dump(ast.parse(without_comments(source))) == ast.dump(ast.parse(source)), file


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def call_sites() -> list[tuple[str, list]]:
    """(module, arguments) of every call of code_version."""
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", "")) == "code_version"
            ):
                found.append((module_name(file), [getattr(one, "value", one) for one in node.args]))
    return found


SITES = call_sites()


def test_there_are_cache_keys_to_check():
    assert len(SITES) >= 10


# they find entries that these modules make, and tests/flows/scale compares what both find
FINDERS = {"flows.scale.entries": "tasks.dataset.pixels", "flows.scale.stage1_features": "tasks.models.stage1"}


@pytest.mark.parametrize(("module", "entries"), SITES, ids=[module for module, _ in SITES])
def test_a_cache_key_names_the_module_that_computes_the_value(module, entries):
    """Its own module, as text (`__name__` is "__main__" under `python -m`), so that no import is left out."""
    assert entries == [FINDERS.get(module, module)]


def test_every_module_that_keys_leave_out_is_one_that_some_key_or_stage_would_have():
    entries = [stage_module(name) for name in STAGES] + [module for module, _ in SITES]
    everything = set(import_closure(*entries, skip=()))
    for name in PLUMBING | CARRIERS:
        assert name in everything, f"{name}: nothing imports it, so it need not be left out"
        assert name.split(".")[0] in PACKAGES
        assert module_file(name).is_file()
