"""The software that made a release, as a bill of materials in CycloneDX 1.6.

Written from what is installed in the environment of the run, so it needs no further library, and names no local path.
"""

import platform
import uuid
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import Distribution, distributions
from typing import Any

from tasks.common.files import content_key
from tasks.common.version import VERSION

NAME = "sbom.cdx"  # beside the release report; not .json, which names the records of runs
LICENCE = 100  # characters: some packages give the whole text


def sbom(at: datetime, lock: str | None = None, found: Iterable[Distribution] | None = None) -> dict[str, Any]:
    """The bill of materials of this process's environment, made `at`. lock: sha256 of requirements.lock."""
    by_name = {}
    for one in distributions() if found is None else found:
        if (name := one.metadata["Name"]) and one.version:  # else what is left of an uninstalled package
            by_name.setdefault(_canonical(name), _component(_canonical(name), one))
    components = [by_name[name] for name in sorted(by_name) if name != "evergreen"]
    properties = [("python", platform.python_version()), ("platform", f"{platform.system()} {platform.machine()}")]
    properties += [("requirements.lock", f"sha256:{lock}")] if lock else []
    named = [{"name": f"evergreen:{name}", "value": value} for name, value in properties]
    about = {"type": "application", "name": "evergreen", "version": VERSION, "bom-ref": "evergreen"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content_key(components, named))}",
        "version": 1,
        "metadata": {"timestamp": at.isoformat(timespec="seconds"), "component": about, "properties": named},
        "components": components,
    }


def _component(name: str, one: Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{one.version.replace('+', '%2B')}"
    made = {"type": "library", "name": name, "version": one.version, "purl": purl, "bom-ref": purl}
    if expression := one.metadata.get("License-Expression"):
        made["licenses"] = [{"expression": expression}]
    elif (given := (one.metadata.get("License") or "").strip()) and len(given) <= LICENCE and "\n" not in given:
        made["licenses"] = [{"license": {"name": given}}]
    return made


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
