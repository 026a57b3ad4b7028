"""Open the store that an address in params.yaml names: a local folder or an S3 prefix."""

from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.params import StoreParams
from tasks.common.paths import main_checkout
from tasks.storage.blobs import Store, without_secrets
from tasks.storage.local import LocalStore


def open_blobs(url: str, root: Path, *, store: StoreParams) -> Store:
    """The store at `url`: s3://bucket/prefix, or a folder relative to the main checkout of `root`.

    `store` says how to reach S3. Raises EvergreenError if the store cannot be opened.
    """
    if url.startswith("s3://"):
        from tasks.storage.s3_store import S3Store  # importing boto3 is slow

        return S3Store(url, endpoint_url=store.endpoint_url, single_writer=store.single_writer)
    if "://" in url:
        raise EvergreenError(
            f"{without_secrets(url)!r} in params.yaml (store.url or capture.url) is not a store: expected a folder "
            "(relative to the main checkout, or absolute) or s3://bucket/prefix"
        )
    folder = main_checkout(root) / Path(url).expanduser()
    try:
        return LocalStore(folder)
    except OSError as error:
        raise EvergreenError(
            f"the store {folder} cannot be opened: {error.strerror}. Make the folder writable, or name another one in "
            "params.yaml (store.url for releases, capture.url for the production log)."
        ) from error
