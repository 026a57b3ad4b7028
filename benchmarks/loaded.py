"""The modules of this repository that a module really loads, late imports included.

    python -m benchmarks.loaded tasks.stages.inspect

Checks tasks.common.code.import_closure by another method: it runs imports instead of reading sources. The module is
imported in this process. Then everything that functions of the loaded modules would import (according to their
bytecode) is imported too, until nothing new is loaded.
"""

import dis
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import CodeType

PACKAGES = ("tasks", "serving", "monitoring")


def loaded(entry: str) -> set[str]:
    """Loaded modules of PACKAGES, and `entry` itself."""
    importlib.import_module(entry)
    done: set[str] = set()
    while new := ({entry} | {name for name in sys.modules if name.split(".")[0] in PACKAGES}) - done:
        for name in new:
            for late in late_imports(sys.modules[name].__spec__.loader.get_code(name)):
                importlib.import_module(late)
        done |= new
    return done


def late_imports(code: CodeType) -> Iterator[str]:
    """Modules of PACKAGES that functions and classes in `code` import; its top-level imports have run already."""
    for inner in (const for const in code.co_consts if isinstance(const, CodeType)):
        module = ""
        for step in dis.get_instructions(inner):
            if step.opname == "IMPORT_NAME":
                module = step.argval if step.argval.split(".")[0] in PACKAGES else ""
                yield from [module] if module else []
            elif step.opname == "IMPORT_FROM" and module and _is_module(module, step.argval):
                yield f"{module}.{step.argval}"
        yield from late_imports(inner)


def _is_module(package: str, name: str) -> bool:
    """Whether `name`, imported from `package`, is a module of it."""
    return hasattr(importlib.import_module(package), "__path__") and find_spec(f"{package}.{name}") is not None


if __name__ == "__main__":
    print("\n".join(sorted(loaded(sys.argv[1]))))
