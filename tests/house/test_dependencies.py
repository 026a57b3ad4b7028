"""What the product imports is what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.support.checkout import ROOT

PACKAGES = ("tasks", "flows", "monitoring", "serving")


def third_party() -> dict[str, str]:
    """Top-level modules of others that the product imports anywhere -> a file that does."""
    found = {}
    for file in (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in PACKAGES:
                    found[name] = file.relative_to(ROOT).as_posix()
    return found


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name, extra in extras.items() if name != "dev" for line in extra]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_that_is_imported_is_declared():
    libraries, known = packages_distributions(), declared()
    for module, file in third_party().items():
        distributions = {normal(name) for name in libraries.get(module, [module])}
        assert distributions & known, f"{file} imports {module}: add one of {sorted(distributions)} to pyproject.toml"
