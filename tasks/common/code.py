"""Import closures and a version of their code, for cache keys and dvc.yaml.

`import_closure` follows imports through this repository, inside functions too. `code_version` hashes the code of that
closure, so that changed code never reads what older code cached. Comments, docstrings and blank lines do not count:
an edit of prose recomputes nothing. A cache key names the module it is in, and nothing else. Put the function that
fills an expensive cache into a small module, so that the key covers only what decides the value.
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path

import tasks

ROOT = Path(tasks.__file__).resolve().parent.parent
PACKAGES = ("tasks", "serving", "monitoring")  # imports are followed through these

# These decide where files lie, how errors read, how progress shows or how a stage is called. Parameters reach a stage
# by value, and both DVC and the cache keys record those values. So none of these modules can change a stage's result.
PLUMBING = frozenset(
    {
        "tasks",
        "tasks.common.code",
        "tasks.common.errors",
        "tasks.common.failpoints",
        "tasks.common.params",
        "tasks.common.paths",
        "tasks.common.progress",
        "tasks.common.section",
        "tasks.common.sections.data",
        "tasks.common.sections.judging",
        "tasks.common.sections.service",
        "tasks.common.sections.training",
    }
)
# These move bytes, rows and tables and compute nothing, so a cached value does not depend on them. A stage does (it may
# move other things), so dvc.yaml lists them. A key whose entry has a table's layout includes that schema itself.
CARRIERS = frozenset(
    {
        "tasks.common.schemas",
        "tasks.common.files",
        "tasks.common.sealed",
        "tasks.common.verified",
        "tasks.dataset.shard_table",
        "tasks.dataset.shards",
    }
)

_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PROSE = re.compile(  # strings are matched first, as a whole: what looks like a comment inside them is kept
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'
    r"|'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'(?:[^'\\\n]|\\.)*'"
    r"|(?P<prose>\n[ \t]*(?:\#[^\n]*)?(?=\n|\Z)|[ \t]*\#[^\n]*)",
    re.DOTALL,
)

Import = tuple[int, str, tuple[str, ...]]  # level of a relative import, module, names taken from it


@lru_cache(maxsize=32)  # many keys are asked for once per shard or batch; a process keeps the code it has loaded
def code_version(*entries: str, root: Path = ROOT) -> str:
    """Hash of the code that the modules `entries` ("tasks.dataset.pixels", ...) run, without PLUMBING and CARRIERS."""
    digest = hashlib.sha256()
    for name in import_closure(*entries, root=root, skip=PLUMBING | CARRIERS):
        digest.update(f"{name} {_read(module_file(name, root).read_bytes())[0]}\n".encode())
    return digest.hexdigest()[:16]


def import_closure(*entries: str, root: Path = ROOT, skip: Collection[str] = PLUMBING) -> list[str]:
    """Modules that `entries` import, directly or not, sorted, with themselves; `skip` is neither listed nor followed.

    A package whose `__init__.py` holds only a docstring is not listed. Imports for type checkers are ignored.
    Raises ValueError for a module that is not a file of this repository.
    """
    todo, found = list(dict.fromkeys(entries)), set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        file = module_file(name, root)
        found.add(name)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for needed in _modules(_read(file.read_bytes())[1], package, root):
            if needed not in skip:
                todo.append(needed)
    return sorted(name for name in found if not _is_empty(name, root))


def module_file(name: str, root: Path = ROOT) -> Path:
    """The file of module or package `name` under `root`. Raises ValueError if there is none."""
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise ValueError(f"module {name!r}: expected {path.with_suffix('.py')} or {path / '__init__.py'}, found neither")


def without_comments(source: str) -> str:
    """`source` without its comments and blank lines; strings are left alone."""
    return _PROSE.sub(lambda match: "" if match["prose"] is not None else match[0], f"\n{source}").lstrip("\n")


def _is_empty(name: str, root: Path) -> bool:
    file = module_file(name, root)
    return file.name == "__init__.py" and not _read(file.read_bytes())[2]


@lru_cache(maxsize=512)
def _read(source: bytes) -> tuple[str, tuple[Import, ...], bool]:
    """(hash of the code in `source`, its imports, whether it holds more than a docstring)."""
    tree = ast.parse(source)
    lines = source.decode().splitlines()
    for first, last in _docstrings(tree):
        if lines[first].lstrip()[:1] in "\"'rR" and lines[last].rstrip()[-1:] in "\"'":  # alone on its lines
            lines[first : last + 1] = [""] * (last + 1 - first)
    code = without_comments("\n".join(lines))
    imports = tuple(_imports(tree.body))
    return hashlib.sha256(code.encode()).hexdigest(), imports, bool(code.strip())


def _docstrings(node: ast.AST) -> Iterator[tuple[int, int]]:
    """(first, last) line of each docstring, from 0."""
    if isinstance(node, _DEFINITIONS) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield first.lineno - 1, first.end_lineno - 1
    for child in _statements(node):
        yield from _docstrings(child)


def _imports(body: list[ast.stmt]) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((0, name.name, ()) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(name.name for name in node.names)
        elif isinstance(node, ast.If) and _for_type_checkers(node.test):
            yield from _imports(node.orelse)
        else:
            yield from _imports(_statements(node))


def _statements(node: ast.AST) -> list[ast.stmt]:
    """The statements directly inside `node`. Expressions are skipped, because they hold no import."""
    found = []
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inside = getattr(node, field, None)
        if isinstance(inside, list):  # the body of a lambda is an expression
            found += inside
    return found


def _for_type_checkers(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _modules(imports: tuple[Import, ...], package: str, root: Path) -> Iterator[str]:
    """Modules of this repository that `imports`, written in `package`, load."""
    for level, module, names in imports:
        if level:
            parts = package.split(".")
            module = ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])
        parts = module.split(".")
        if parts[0] not in PACKAGES:
            continue
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))  # a package is loaded before its modules
        path = root.joinpath(*parts)
        if path.is_dir():
            for name in names:
                if (path / f"{name}.py").is_file() or (path / name / "__init__.py").is_file():
                    yield f"{module}.{name}"
