"""A reference of 300 samples for the drift tests."""

import pytest

from monitoring.drift.reference import Reference
from tests.support.drift_rows import a_reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    return a_reference(tmp_path_factory.mktemp("drift"))
