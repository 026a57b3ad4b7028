"""What every short command does first to start quickly."""

import atexit
import sys
from gc import freeze, set_threshold


def collect_less_garbage() -> None:
    """Libraries make a million objects that stay. Looking through them for garbage takes a fifth of the time in which
    they are imported, and a last time, when a process ends, three seconds after a training."""
    set_threshold(50_000, 20, 20)
    atexit.register(freeze)


class _NoPandas:
    @staticmethod
    def find_spec(name: str, *_) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def keep_pandas_out() -> None:
    """pyarrow imports pandas when it makes its first array, to know a pandas object when it sees one: a quarter of a
    second. For commands that never hand it one: until somebody calls `to_pandas` or `from_pandas`, it takes a Series
    for any other sequence, in which NaN is no null."""
    import pyarrow

    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas)
        try:
            pyarrow.array([0])
        finally:
            sys.meta_path.remove(_NoPandas)
