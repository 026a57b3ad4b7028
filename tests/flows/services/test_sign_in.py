"""`evergreen open` without a server; test_services.py signs a real browser in with it."""

import pytest

from flows.services.sign_in import export_lines, open_console, sign_in_lines
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError


@pytest.mark.parametrize("what", [open_console, sign_in_lines, export_lines])
def test_without_a_server_nothing_is_opened_or_shown(what, tmp_path):
    checkout(tmp_path)
    with pytest.raises(EvergreenError, match="evergreen up"):
        what(tmp_path)
    assert not (tmp_path / ".evergreen/sign-in.html").exists()
