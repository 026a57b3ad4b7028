"""Where DVC's objects go: next to the releases, also when `store.url` in params.yaml names S3.

A new project has a DVC remote in the folder `.evergreen/remote`. If its releases are stored in s3://bucket/prefix, that
remote becomes s3://bucket/prefix/dvc, in every run's workspace and wherever Evergreen opens DVC. So one setting moves
both. A remote that the user has put anywhere else is not changed.
"""

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import main_checkout, state_dir

OWN_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token", "profile", "credentialpath", "configpath")


def on_s3(root: Path, dvc_dir: Path) -> dict[str, dict[str, Any]]:
    """Name -> settings of each DVC remote in `dvc_dir` (.dvc) that the params.yaml in `root` moves to S3."""
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


def private_config(root: Path) -> dict[str, Any]:
    """DVC's settings for the checkout `root`: its index of hashes lies in .evergreen/.

    By default DVC shares one folder of /var/tmp, open for writing to all users of the machine, and unpickles what it
    finds there. The workspace of a run has a folder of its own.
    """
    return {"core": {"site_cache_dir": str(state_dir(root) / "dvc")}} if main_checkout(root) == root else {}


_opened: WeakKeyDictionary[Any, dict[str | None, Any]] = WeakKeyDictionary()


def open_remote(repo, name: str | None) -> Any:
    """DVC's object database of the remote `name`; None: the default remote.

    It is opened once per open `repo`: a remote in S3 takes a fifth of a second. Each call discards the cached listings
    of the remote, so the answer is never older than the call. Raises DVC's own errors.
    """
    opened, name = _opened.setdefault(repo, {}), name or repo.config["core"].get("remote")
    if name not in opened:
        opened[name] = repo.cloud.get_remote_odb(name)
    opened[name].fs.fs.invalidate_cache()  # listings that s3fs cached before other processes wrote
    return opened[name]


def check_remotes(repo) -> None:
    """Raise S3Error, saying what to do, if a remote in S3 cannot be used: DVC's own errors say less."""
    for remote in repo.config["remote"].values():
        if remote["url"].startswith("s3://") and not any(name in remote for name in OWN_CREDENTIALS):
            from tasks.storage.s3_bucket import Bucket

            Bucket(remote["url"], remote.get("endpointurl")).check()


def object_databases(repo, remote: str | None, push: bool = True) -> list[Any]:
    """Where an object may be: the cache and, if it belongs in a remote (`push`) and there is one, the remote.

    Each call discards cached listings of the remote, so call it once for many objects. Raises EvergreenError if the
    remote cannot be opened.
    """
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


def all_object_databases(repo) -> list[Any]:
    """DVC's cache and all of its remotes."""
    found = [repo.cache.local]
    for name in repo.config["remote"]:
        found += object_databases(repo, name)[1:]
    return found
