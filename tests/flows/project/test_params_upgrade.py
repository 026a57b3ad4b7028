"""An older params.yaml in today's names and defaults."""

import pytest

from flows.project.params_upgrade import migrate_params
from tasks.common.params import parse_params, parse_text
from tests.support.checkout import ROOT

NOW = (ROOT / "params.yaml").read_text()
OLD_LINE = "  first_model: {test.balanced_accuracy: 0.5}  # of a first model\n"


@pytest.mark.parametrize("old", [OLD_LINE, "  first_model:\n    test.balanced_accuracy: 0.5  # of a first model\n"])
def test_the_floor_that_evergreen_shipped_becomes_the_default(old):
    """Nobody wrote it: it must not reject a first model that is now provisional."""
    found = migrate_params(NOW.replace("  first_model: null\n", old))
    assert parse_params(parse_text(found.text)).gate.first_model is None
    assert [change.split(" (")[0] for change in found.changes] == ["gate.first_model is now null"]
    assert "Write it again to keep it a floor" in found.changes[0]
    assert parse_text(found.text) == parse_text(NOW)
    assert "# of a first model" in found.text
    assert migrate_params(found.text).changes == []


@pytest.mark.parametrize("floor", ["{test.balanced_accuracy: 0.6}", "{test.accuracy: 0.5}"])
def test_a_floor_of_the_users_own_stays(floor):
    text = NOW.replace("first_model: null", f"first_model: {floor}")
    found = migrate_params(text)
    assert (found.text, found.changes) == (text, [])
