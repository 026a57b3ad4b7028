"""Which test process takes which tests, and what happens to them if it dies."""

from collections.abc import Mapping
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling


class FilesTogether(LoadScopeScheduling):
    """A process takes a whole file, or the files of a group. groups: file name without its ending -> group."""

    def __init__(self, config, log, groups: Mapping[str, str]):
        super().__init__(config, log)
        self._groups = groups

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0]).stem
        return self._groups.get(file, file)

    def remove_node(self, node) -> str | None:
        """A test whose process died has failed, and the others go on.

        xdist alone would run it again and again. It would also hand out what the process had finished: processes that
        get units without a test to run wait forever.
        """
        units = self.assigned_work[node]
        died = next((test for tests in units.values() for test, done in tests.items() if not done), None)
        if died is not None:
            units[self._split_scope(died)][died] = True
        self.assigned_work[node] = {scope: tests for scope, tests in units.items() if not all(tests.values())}
        super().remove_node(node)
        return died

    def schedule(self) -> None:
        super().schedule()
        super().schedule()  # a process begins the last test that it has only when it knows that none follows
