"""Thin orchestration around `tasks`: the only package that imports Prefect."""

import atexit
import gc


def end_quickly() -> None:
    """Let this process end without a last search for garbage: libraries made a million objects, and going through
    them takes more than three seconds after a training."""
    atexit.register(gc.freeze)
