"""Where DVC's objects go: beside the releases, also when `store.url` in params.yaml names S3.

A project begins with a DVC remote in the folder `.evergreen/remote`. When its releases are kept in s3://bucket/prefix,
that remote means s3://bucket/prefix/dvc, in every run's workspace and wherever Evergreen opens DVC: one setting moves
both. A remote that the user has put anywhere else stays what it is.
"""

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import main_checkout

OWN_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token", "profile", "credentialpath", "configpath")


def on_s3(root: Path, dvc_dir: Path) -> dict[str, dict[str, Any]]:
    """Name -> settings of each DVC remote, as `dvc_dir` (.dvc) has it, that the params.yaml in `root` moves to S3."""
    if not (root / "params.yaml").is_file():
        return {}
    store = load_params(root / "params.yaml").store
    if not store.url.startswith("s3://"):
        return {}
    from dvc.config import Config

    settings = {"url": f"{store.url.rstrip('/')}/dvc", "verify": True}
    if store.endpoint_url:
        settings["endpointurl"] = store.endpoint_url
    main = main_checkout(root)
    default = (main / ".evergreen" / "remote").resolve()
    return {
        name: settings
        for name, remote in Config(str(dvc_dir), local_dvc_dir=str(dvc_dir))["remote"].items()
        if "://" not in remote["url"] and (main / ".dvc" / remote["url"]).resolve() == default
    }


_opened: WeakKeyDictionary[Any, dict[str | None, Any]] = WeakKeyDictionary()


def open_remote(repo, name: str | None) -> Any:
    """DVC's object database of the remote `name` (None: the default one), opened once for each open `repo`: a remote
    in S3 takes a fifth of a second. What was remembered of its listings is forgotten at each call, so the answer is
    never older than that. Raises DVC's own errors."""
    opened, name = _opened.setdefault(repo, {}), name or repo.config["core"].get("remote")
    if name not in opened:
        opened[name] = repo.cloud.get_remote_odb(name)
    opened[name].fs.fs.invalidate_cache()  # listings that s3fs made before others wrote
    return opened[name]


def forget_index(odb) -> None:
    """Make DVC forget what it believes to lie in a remote: a later push would trust that."""
    from dvc_data.hashfile.db import get_index

    index = get_index(odb)
    index.clear()
    index.close()


def check_remotes(repo) -> None:
    """Raises S3Error, saying what to do, when a remote in S3 cannot be used: DVC's own errors tell less."""
    for remote in repo.config["remote"].values():
        if remote["url"].startswith("s3://") and not any(name in remote for name in OWN_CREDENTIALS):
            from tasks.storage.s3_bucket import Bucket

            Bucket(remote["url"], remote.get("endpointurl")).check()


def places(repo, remote: str | None, push: bool = True) -> list[Any]:
    """Where an object may lie: the cache, and the remote if it was pushed and there is one. Ask once for many objects:
    what is remembered of a remote is forgotten here. Raises EvergreenError for a remote that cannot be opened."""
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException

    found = [repo.cache.local]
    if push:
        try:
            found.append(open_remote(repo, remote))
        except NoRemoteError:
            pass
        except DvcException as error:
            raise EvergreenError(f"the DVC remote {remote or ''} cannot be opened: {error}") from error
    return found
