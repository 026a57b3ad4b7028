"""Empty stores of every kind: a folder, an S3 server with conditional writes, and one without them."""

from pathlib import Path

import pytest

from tasks.common.params import StoreParams
from tasks.releases.store import Releases
from tasks.storage.blobs import Store
from tasks.storage.local import LocalStore
from tasks.storage.places import open_blobs
from tests.support.s3_servers import credentials, moto, rclone  # noqa: F401  (fixtures)


def place(kind: str, tmp_path: Path, request) -> StoreParams:
    """An empty store of this kind as params.yaml would name it."""
    if kind == "local":
        return StoreParams(url=str(tmp_path / "store"))
    request.getfixturevalue("credentials")
    server = request.getfixturevalue(kind)
    url = f"s3://{server.bucket()}/some/team"
    return StoreParams(url=url, endpoint_url=server.endpoint, single_writer=not server.conditional)


def opened(params: StoreParams) -> Store:
    return open_blobs(params.url, Path("/"), store=params)


@pytest.fixture(params=["local", "moto", "rclone"])
def params(request, tmp_path: Path) -> StoreParams:
    return place(request.param, tmp_path, request)


@pytest.fixture(params=["local", "moto"])
def shared(request, tmp_path: Path) -> StoreParams:
    """A store for several writers at once."""
    return place(request.param, tmp_path, request)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def store(params: StoreParams) -> Store:
    return opened(params)


@pytest.fixture
def releases(store: Store) -> Releases:
    return Releases(store)


def overwrite(store: Store, key: str, data: bytes | None) -> None:
    """What no writer of ours would do: other bytes under `key`, or none."""
    if isinstance(store, LocalStore):
        (store.root / key).unlink()
        if data is not None:
            (store.root / key).write_bytes(data)
    elif data is None:
        store.bucket.s3.delete_object(Bucket=store.bucket.name, Key=store.bucket.prefix + key)
    else:
        store.bucket.s3.put_object(Bucket=store.bucket.name, Key=store.bucket.prefix + key, Body=data)
