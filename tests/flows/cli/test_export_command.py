"""`evergreen export` writes the live version, an older one or a bundle's folder."""

import pytest

from flows.versions.export import export_version
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tests.support import live_project
from tests.support.live_project import VERSION
from tests.support.released_project import evergreen


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    return live_project.make(tmp_path_factory.mktemp("export"))


def test_the_live_version_goes_into_the_projects_state(main):
    printed = evergreen(main, "export", "triton")
    place = main / ".evergreen/exports/v0.1.0-triton"
    assert f"{VERSION} as triton is in {place}" in printed
    assert read_json(place / "export.json")["version"] == VERSION
    assert "model repository of Triton" in evergreen(main, "export")


def test_a_version_or_a_folder_can_be_named(main, tmp_path):
    assert export_version(main, "triton", VERSION, tmp_path / "one").record["version"] == VERSION
    made = export_version(main, "triton", str(main / "artifacts/bundle"), tmp_path / "two")
    assert made.record["version"] == f"bundle-{made.record['bundle'][:12]}"
    with pytest.raises(EvergreenError, match=r"v9.9.9 is not a version: expected live, one of v0.1.0"):
        export_version(main, "triton", "v9.9.9", tmp_path / "three")
    assert not (tmp_path / "three").exists()
