"""The job templates in deploy/ are those of the locked Prefect, with our defaults and what our pods need."""

import json
from pathlib import Path

import prefect
import pytest

from tests.support.checkout import ROOT

VIEWS = "server/api/collections_data/views/aggregate-worker-metadata.json"
POD = "job_configuration.job_manifest.spec.template.spec"
OURS = {  # path -> value; no others differ
    "docker": {
        "variables.properties.image.default": "localhost/evergreen-flows",
        "variables.properties.image_pull_policy.default": "IfNotPresent",
        "variables.properties.volumes.default": ["/srv/project:/srv/project"],
        "variables.properties.auto_remove.default": True,
        "variables.properties.mem_limit.default": "8g",
    },
    "kubernetes": {
        "variables.properties.image.default": "registry.example.com/evergreen-flows",
        "variables.properties.namespace.default": "evergreen",
        "variables.properties.service_account_name.default": "evergreen",
        "variables.properties.finished_job_ttl.default": 86400,
        "variables.properties.pod_watch_timeout_seconds.default": 600,
        "variables.properties.cpu_request.default": "2",
        "variables.properties.memory_request.default": "8Gi",
        "variables.properties.memory_limit.default": "8Gi",
        f"{POD}.automountServiceAccountToken": False,
        f"{POD}.securityContext.runAsNonRoot": True,
        f"{POD}.securityContext.runAsUser": 10001,
        f"{POD}.securityContext.runAsGroup": 10001,
        f"{POD}.securityContext.fsGroup": 10001,
        f"{POD}.securityContext.seccompProfile.type": "RuntimeDefault",
        f"{POD}.volumes": [
            {"name": "project", "persistentVolumeClaim": {"claimName": "evergreen-project"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
        f"{POD}.containers.0.envFrom": [{"secretRef": {"name": "evergreen"}}],
        f"{POD}.containers.0.volumeMounts": [
            {"name": "project", "mountPath": "/srv/project"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
        f"{POD}.containers.0.securityContext.allowPrivilegeEscalation": False,
        f"{POD}.containers.0.securityContext.capabilities.drop": ["ALL"],
        f"{POD}.containers.0.securityContext.readOnlyRootFilesystem": True,
    },
}


def leaves(value, path: str = "") -> dict[str, object]:
    """Path -> value of everything in a JSON document; lists of plain values, and those we add, are leaves."""
    if path in {**OURS["docker"], **OURS["kubernetes"]} or not isinstance(value, dict | list):
        return {path: value}
    if isinstance(value, list) and not any(isinstance(one, dict) for one in value):
        return {path: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = {} if value else {path: value}
    for key, one in pairs:
        if key != "example" and not (key == "description" and isinstance(one, str)):  # prose
            found |= leaves(one, f"{path}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize("kind", list(OURS))
def test_a_template_is_prefects_own_with_these_differences(kind):
    known = json.loads((Path(prefect.__file__).parent / VIEWS).read_text())
    own = leaves(known[f"prefect-{kind}"][kind]["default_base_job_configuration"])
    assert leaves(json.loads((ROOT / f"deploy/pool-{kind}.json").read_text())) == own | OURS[kind]
