"""Count what a user has to write for an arm: lines of code, of settings, and commands to type."""

import ast
from pathlib import Path

import benchmarks.scripts_peers

FOLDER = Path(benchmarks.scripts_peers.__file__).parent
PACKAGE = benchmarks.scripts_peers.__name__


def code_lines(text: str) -> int:
    """Lines of Python that hold code: not blank, no comment, no docstring."""
    tree = ast.parse(text)
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                prose |= set(range(first.lineno, first.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in prose for n, line in lines)


def modules_of(*names: str) -> list[str]:
    """`names` and the modules of scripts_peers that they import, directly or not."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
                todo.append(node.module.rpartition(".")[2])
    return sorted(found)


def lines_of(*names: str) -> int:
    """Lines of code of the modules `names` and of what they import of scripts_peers."""
    return sum(code_lines((FOLDER / f"{name}.py").read_text(encoding="utf-8")) for name in modules_of(*names))
