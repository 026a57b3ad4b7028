"""`evergreen score` on a Ray cluster: the log of a local scoring, although a worker is killed."""

import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from flows.production import answering_by_ray
from flows.production import score as score_module
from flows.production.answering import Asked, answer_batch
from flows.production.answering_by_ray import _AnswerBatch, answered_by_ray
from flows.production.score import score
from monitoring.log.production_log import open_log
from serving.live import Model
from serving.predictor import Predictor
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tests.support.live_project import make, traffic
from tests.support.ray_cluster import killed_once, ray_cluster  # noqa: F401

AT = datetime(2026, 5, 3, tzinfo=UTC)


@dataclass(frozen=True)
class DieOnce(_AnswerBatch):
    """The function of a task, whose first worker is killed."""

    marker: Path | None = None

    def __call__(self, batch):
        if killed_once(self.marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("score"), replace={"images: full": "images: thumbnail"})


def set_params(root: Path, log: Path, **scale: str) -> None:
    """Let the project score into the folder `log`, with these values in the section `scale`."""
    text = (root / "params.yaml").read_text()
    before = load_params(root / "params.yaml")
    text = text.replace(f"url: {before.capture.url}", f"url: {log}")
    for key, value in scale.items():
        old = getattr(before.scale, key)
        text = text.replace(f"  {key}: {'null' if old is None else old}\n", f"  {key}: {value}\n")
    (root / "params.yaml").write_text(text)


def files(root: Path) -> list[str]:
    """The names of the log's files, which are digests of their content."""
    return sorted(open_log(root, load_params(root / "params.yaml")).store.list(""))


def test_the_log_is_the_one_of_a_local_scoring_although_a_worker_dies(root, ray_cluster, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(score_module, "BATCH", 8)
    monkeypatch.setattr(answering_by_ray, "FEW", 1)
    file = traffic(tmp_path / "traffic.parquet", 2, 60)
    set_params(root, tmp_path / "local")
    local, expected = score(root, str(file), at=AT), files(root)
    set_params(root, tmp_path / "ray", engine="ray", address=ray_cluster.address)
    monkeypatch.setattr(answering_by_ray, "_AnswerBatch", partial(DieOnce, marker=tmp_path / "killed"))
    assert score(root, str(file), at=AT) == local
    assert files(root) == expected
    assert (tmp_path / "killed").exists()
    score(root, str(file))  # the same source again changes nothing
    assert files(root) == expected


def test_the_rows_name_the_bundle_that_was_published_although_its_files_were_replaced(root, ray_cluster, monkeypatch):  # noqa: F811
    monkeypatch.setattr(answering_by_ray, "FEW", 0)
    batch = [Asked(b"not an image", AT, None, None, None, ())]
    for published in ("a" * 64, "b" * 64):  # the second has the same files
        model = Model(Predictor(root / "artifacts/bundle", known_as=published), "v0.1.0")
        (rows,) = answered_by_ray([batch], model, ray_cluster, lambda line: None)
        assert rows == answer_batch(model, batch)
        assert rows[0].row["bundle"] == published


def test_only_more_than_a_few_batches_ask_the_cluster(root, tmp_path, monkeypatch):
    monkeypatch.setattr(answering_by_ray, "FEW", 1)
    monkeypatch.setattr(score_module, "BATCH", 10)
    set_params(root, tmp_path / "log", engine="ray", address="127.0.0.1:9")
    assert score(root, str(traffic(tmp_path / "few.parquet", 2, 10))).rows == 10
    with pytest.raises(EvergreenError, match=r"127\.0\.0\.1:9"):
        score(root, str(traffic(tmp_path / "more.parquet", 2, 11)))
