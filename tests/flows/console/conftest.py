"""Jobs run in a project's folder, which in tests may have a folder `tasks` without Evergreen's code."""

from collections.abc import Iterator

import pytest

from tests.support.checkout import ROOT


@pytest.fixture(scope="session", autouse=True)
def this_code() -> Iterator[None]:
    """Child processes import this checkout's code, whatever lies in the project's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
