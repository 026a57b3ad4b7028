"""What kind of batch the options of `evergreen ingest` ask for."""

import pytest

from flows.cli.main import batch_kind
from tasks.common.errors import EvergreenError


def test_each_option_asks_for_its_kind_and_two_are_refused():
    assert batch_kind(hard=False, production=False, synthetic=False) == "import"
    assert batch_kind(hard=False, production=True, synthetic=False) == "production"
    assert batch_kind(hard=False, production=False, synthetic=True) == "synthetic"
    with pytest.raises(EvergreenError, match="--hard and --synthetic exclude each other"):
        batch_kind(hard=True, production=False, synthetic=True)
