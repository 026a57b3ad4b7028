"""KServe: a model repository for its Triton runtime, and the manifest of the InferenceService.

model_repository/...     as the format `triton`
inferenceservice.yaml    Open Inference Protocol v2; `storageUri` is --uri, where the owner puts model_repository
"""

import re
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.export import triton
from tasks.export.source import Source, Written

LONGEST = 50  # characters of a name: Kubernetes allows 63, and KServe appends words of its own
URI = re.compile(r"(s3|gs|pvc|https?|hdfs|webhdfs|oci|hf|file|azure)://\S+")


def write(source: Source, folder: Path) -> Written:
    """The repository and the manifest."""
    import yaml

    if source.uri is None or not URI.fullmatch(source.uri):
        given = "--uri is missing" if source.uri is None else f"--uri {source.uri} is not such a place"
        raise EvergreenError(
            f"{given}: the manifest names where KServe fetches the model from, such as "
            "--uri s3://bucket/models/parts. Copy model_repository/ there afterwards"
        )
    written = triton.write(source, folder)
    text = yaml.safe_dump(manifest(source), sort_keys=False, allow_unicode=True)
    (folder / "inferenceservice.yaml").write_text(text, encoding="utf-8")
    return written


def manifest(source: Source) -> dict:
    """The InferenceService."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service_name(source.name),
            "annotations": {"evergreen/version": source.version},
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "model": {
                    "modelFormat": {"name": "triton"},
                    "protocolVersion": "v2",
                    "storageUri": source.uri,
                    "resources": {
                        "requests": {"cpu": "1", "memory": "1Gi"},
                        "limits": {"cpu": "2", "memory": "2Gi"},
                    },
                },
            }
        },
    }


def service_name(name: str) -> str:
    """`name` as a name of Kubernetes: lower-case letters, digits and hyphens, a letter first."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST].strip("-")
    return found if found[:1].isalpha() else f"model-{found}".strip("-")
