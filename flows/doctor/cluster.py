"""The check of the engine that computes: this machine, or a Ray cluster."""

from pathlib import Path

from flows.doctor.finding import Finding, ok, problem
from flows.scale import engine
from tasks.common.errors import EvergreenError
from tasks.common.params import Params


def scale(root: Path, params: Params) -> Finding:
    """Which engine is set, and whether the cluster of `scale.address` answers: its nodes and versions."""
    section = params.scale
    if section.engine == "local":
        return ok("scale", "engine local: this machine computes everything")
    try:
        if section.address is None:
            return ok("scale", f"engine ray {engine.installed()}: a cluster of this machine starts with each run")
        found = engine.connect(section)
    except EvergreenError as error:
        return problem("scale", str(error), "as the message says")
    finally:
        engine.disconnect()
    shared = f"; shards and entries go through {section.shared}" if section.shared else ""
    return ok("scale", f"engine ray: {found.sentence()}{shared}")
