"""The image and the Kubernetes manifests in deploy/: a linter accepts the first, and they name each other's parts."""

import json
import re
import shutil
import subprocess
import sys

import yaml

from tests.support.checkout import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
TEMPLATE = json.loads((DEPLOY / "pool-kubernetes.json").read_text())
RAY = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "ray-cluster.yaml").read_text())}
POD = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]


def test_a_linter_accepts_the_image():
    hadolint = shutil.which("hadolint", path=f"{sys.prefix}/bin")
    done = subprocess.run([hadolint, DEPLOY / "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_the_user_whom_pods_name_and_holds_no_project():
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    context = POD["securityContext"]
    assert {f"ARG UID={context['runAsUser']}", f"ARG GID={context['runAsGroup']}", "USER $UID:$GID"} <= set(lines)
    assert f"WORKDIR {POD['containers'][0]['volumeMounts'][0]['mountPath']}" in lines
    assert [line for line in lines if line.startswith("COPY")] == [
        "COPY requirements.lock /build/",
        "COPY --from=build /venv /venv",
    ]


def test_the_image_is_built_under_the_name_that_the_docker_pool_asks_for():
    pool = json.loads((DEPLOY / "pool-docker.json").read_text())["variables"]["properties"]["image"]["default"]
    for file in (DEPLOY / "Containerfile", ROOT / "docs/scale.md"):
        built = re.findall(r"docker build -t (\S+)", file.read_text())
        assert set(built) == {pool}, file


def test_the_manifests_make_what_pods_name():
    defaults = {name: about.get("default") for name, about in TEMPLATE["variables"]["properties"].items()}
    namespace, account = KUBERNETES["Namespace"]["metadata"]["name"], KUBERNETES["ServiceAccount"]["metadata"]
    claim = KUBERNETES["PersistentVolumeClaim"]
    assert (defaults["namespace"], defaults["service_account_name"]) == (namespace, account["name"])
    assert POD["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {account["namespace"], claim["metadata"]["namespace"]} == {namespace}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "pods on several nodes use it at once"


def test_the_ray_cluster_has_the_locked_ray_and_lets_in_who_has_the_token():
    spec = RAY["RayCluster"]["spec"]
    locked = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked in ([], [spec["rayVersion"]])
    pods = [spec["headGroupSpec"]["template"]["spec"], *(one["template"]["spec"] for one in spec["workerGroupSpecs"])]
    asked = []
    for pod in pods:
        (container,) = pod["containers"]
        env = {one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert env["RAY_AUTH_MODE"] == "token"
        assert env["RAY_AUTH_TOKEN"] == {"name": "evergreen-ray", "key": "token"}
        assert container["image"] == TEMPLATE["variables"]["properties"]["image"]["default"]
        assert container["resources"]["requests"] == container["resources"]["limits"], "Ray counts what it gets"
        assert pod["securityContext"] == POD["securityContext"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        for probe in (container["readinessProbe"], container["livenessProbe"]):
            assert not {"httpGet", "grpc"} & set(probe), "the locked Ray has no HTTP server, which KubeRay would ask"
        asked += [container["env"]]
    assert all(env == spec["autoscalerOptions"]["env"] for env in asked), "the autoscaler asks the head, too"
    account = KUBERNETES["ServiceAccount"]["metadata"]["name"]
    assert {pod.get("serviceAccountName") for pod in pods} == {None, account}, "workers open the bucket"


def test_only_pods_of_the_namespace_reach_the_ray_cluster():
    cluster, policy = RAY["RayCluster"]["metadata"], RAY["NetworkPolicy"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": cluster["name"]}
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    assert {cluster["namespace"], policy["metadata"]["namespace"]} == {KUBERNETES["Namespace"]["metadata"]["name"]}
