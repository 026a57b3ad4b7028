"""When a server gets another secret: whenever somebody else may have listened at its address."""

import pytest

from flows.server.process import _may_have_leaked
from flows.server.processes import boot
from tasks.common.files import write_json

URL = "http://127.0.0.1:4200/api"


@pytest.mark.parametrize(
    ("url", "boot", "leaked"),
    [
        (URL, boot(), False),
        ("http://127.0.0.1:4201/api", boot(), True),
        (URL, "another start", True),
        (URL, None, True),
    ],
)
def test_a_taken_port_or_a_restart_of_the_machine_renews_it_and_a_crash_does_not(tmp_path, url, boot, leaked):
    assert not _may_have_leaked(tmp_path, URL), "the first server"
    write_json(tmp_path / ".evergreen/server.json", {"pid": 7, "created": "1", "boot": boot, "url": url})
    assert _may_have_leaked(tmp_path, URL) is leaked
