"""Thin orchestration around `tasks`: the only package that imports Prefect."""

import atexit
from gc import freeze, set_threshold  # by name: flows.gc would take the name gc


def collect_less_garbage() -> None:
    """Libraries make a million objects that stay. Looking through them for garbage takes a fifth of the time in which
    they are imported, and a last time, when a process ends, three seconds after a training."""
    set_threshold(50_000, 20, 20)
    atexit.register(freeze)
