"""Print the figures of a benchmark as a table and record them in docs/benchmarks/<script>.json.

A figure that misses its goal stays in; docs/benchmarks/README.md gives the reason. `--quick` passes (`make long`: no
script rots) measure too little to be quoted and are only printed.
"""

import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from tasks.common.checks import Frozen
from tasks.common.files import write_json

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


class Figure(Frozen):
    """One measured figure. `spread` says how it varied (e.g. "min 1.1, max 1.3 of 5 rounds")."""

    name: str
    value: float
    unit: str
    goal: float | None
    better: Literal["higher", "lower"]
    peer: str = ""
    seeds: int = 1
    spread: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


def machine() -> str:
    return f"{os.cpu_count()} cores {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def report(script: str, command: str, figures: list[Figure], quick: bool = False) -> None:
    """Print `figures` and write docs/benchmarks/<script>.json, unless this was a quick pass."""
    table = Table(title=f"{script}{' (quick pass: not recorded)' if quick else ''}")
    for column in ("figure", "value", "goal", "met", "peer", "spread"):
        table.add_column(column)
    for figure in figures:
        goal = "" if figure.goal is None else f"{'>=' if figure.better == 'higher' else '<='} {figure.goal:g}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.4g} {figure.unit}", goal, met, figure.peer, figure.spread)
    Console(width=min(160, Console().width if sys.stdout.isatty() else 160)).print(table)
    if quick:
        return
    common = {"command": command, "date": date.today().isoformat(), "machine": machine()}
    write_json(FOLDER / f"{script}.json", [figure.model_dump() | common for figure in figures])
