"""Two switches that make short commands start faster."""

import atexit
import sys
from gc import freeze

from tasks.common.garbage import collect_rarely


def collect_less_garbage() -> None:
    """Let the garbage collector run less often, and not at exit.

    A last search at the end of a training takes three seconds.
    """
    collect_rarely()
    atexit.register(freeze)


class _NoPandas:
    """An import hook. `sys.modules["pandas"] = None` does not do: pyarrow's compiled import returns the None."""

    @staticmethod
    def find_spec(name: str, *_) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def keep_pandas_out() -> None:
    """Let pyarrow make its first array without importing pandas, for commands that never pass it a pandas object.

    pyarrow imports pandas then, to recognise pandas objects. That takes a fifth of an `evergreen ingest` of a few
    images (0.84 s with it, 0.68 s without). Until `to_pandas` or `from_pandas` is called, pyarrow treats a Series as
    any other sequence, so its NaN does not become null.
    """
    import pyarrow

    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas)
        try:
            pyarrow.array([0])
        finally:
            sys.meta_path.remove(_NoPandas)
