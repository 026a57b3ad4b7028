"""A project with three released versions, for the tests of rollback, history and held runs."""

import pytest

from tests.support import released_project


@pytest.fixture
def main(tmp_path):
    return released_project.copy(tmp_path)
