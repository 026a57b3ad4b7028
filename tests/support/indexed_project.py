"""A project with images of data/, production answers and windows of the journal, for the console's index."""

from pathlib import Path

import pyarrow as pa

from monitoring.journal import Journal
from monitoring.log.production_log import Log, open_log
from tasks.common.params import load_params
from tasks.releases.store import open_store
from tests.support import drift_windows, live_project
from tests.support.small_project import CLASSES

WINDOWS, ROWS = 3, 12  # windows of the journal, answers of each
SOURCES = ("gate", "belt")


def make(folder: Path) -> Path:
    """The project at `folder`/main: 144 images of data/, WINDOWS windows with ROWS answers each."""
    main = live_project.make(folder)
    log = the_log(main)
    live = open_store(load_params(main / "params.yaml").store, main).live()
    for number in range(WINDOWS):
        table = drift_windows.window_table(number, ROWS, CLASSES, source=SOURCES[number % 2])
        at = table.schema.get_field_index("bundle")
        log.append(table.set_column(at, table.schema.field(at), pa.array([live.bundle] * ROWS)))
    journal = Journal(log.store)
    for measures, decision in drift_windows.history(WINDOWS):
        journal.append(measures, decision)
    return main


def the_log(root: Path) -> Log:
    """The project's production log."""
    return open_log(root, load_params(root / "params.yaml"))
