"""A release store that was moved away is not one that never held anything."""

import shutil

from typer.testing import CliRunner

from flows.cli.main import app
from flows.publishing.store_away import store_away
from tasks.common.params import load_params
from tests.support import released_project
from tests.support.released_project import store


def test_status_says_that_the_store_is_away(tmp_path, monkeypatch):
    main = released_project.copy(tmp_path)
    monkeypatch.chdir(main)
    assert store_away(main, load_params(main / "params.yaml"), store(main)) is None
    folder = main / ".evergreen/releases"
    folder.rename(tmp_path / "away")
    said = CliRunner().invoke(app, ["status"]).output
    assert "live:        the release store .evergreen/releases is empty, but git knows v0.3.0: it was moved" in said
    assert "nothing yet" not in said
    shutil.rmtree(folder)
    (tmp_path / "away").rename(folder)
    assert store(main).live().version == "v0.3.0"
