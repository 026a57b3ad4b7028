"""The bill of materials of a release: complete, valid in form, the same again, without a path."""

import json
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tasks.releases.sbom import sbom

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def test_it_names_every_installed_package_once_and_no_path():
    made = sbom(NOON, "ab" * 32)
    names = [one["name"] for one in made["components"]]
    assert names == sorted(set(names))
    assert {"numpy", "pyarrow", "prefect", "dvc"} <= set(names)
    purls = {one["purl"] for one in made["components"]}
    assert f"pkg:pypi/pydantic@{version('pydantic')}" in purls
    text = json.dumps(made)
    assert str(Path.home()) not in text.replace('"/"', "")
    assert sys.prefix not in text


def test_its_form_is_that_of_cyclonedx_1_6():
    made = sbom(NOON, "ab" * 32)
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["serialNumber"])
    assert datetime.fromisoformat(made["metadata"]["timestamp"]) == NOON
    refs = [made["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in made["components"])]
    assert len(refs) == len(set(refs))
    for one in made["components"]:
        assert one["type"] == "library"
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[^ +]+", one["purl"]), one
        assert all(set(licence) in ({"expression"}, {"license"}) for licence in one.get("licenses", ()))


def test_the_same_environment_has_the_same_number_and_another_lock_another():
    assert sbom(NOON, "a" * 64)["serialNumber"] == sbom(datetime.now(UTC), "a" * 64)["serialNumber"]
    assert sbom(NOON, "a" * 64)["serialNumber"] != sbom(NOON, "b" * 64)["serialNumber"]
