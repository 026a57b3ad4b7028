"""A project with three releases and a run that waits for its rollout."""

import pytest

from tests.support import rolling_project


@pytest.fixture
def main(tmp_path):
    return rolling_project.copy(tmp_path)
