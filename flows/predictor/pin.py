"""Pin a version: fetch its bundle, prove that it loads, then switch."""

from pathlib import Path

from flows.predictor.known import cached_model, read_known, remember
from serving.live import fetch_bundle
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.releases.store import Releases, open_store
from tasks.releases.switches import Pin, set_pin


def pin(root: Path, version: str, by: str, why: str = "", say=print) -> Pin:
    """Let `version` answer on this machine until `unpin`, whatever goes live.

    If the release store cannot be read, a version that this machine has loaded before can be pinned. Raises
    EvergreenError if the version is unknown, or its bundle is neither in the store nor in the cache.
    """
    bundle, releases = _bundle_of(root, version, say)
    if releases is not None:
        try:
            fetch_bundle(releases, bundle, cache_dir("bundles", root))
        except Exception as error:
            if not (cache_dir("bundles", root) / bundle).is_dir():
                raise
            say(f"the release store cannot be read ({_short(error)}): this machine's copy is used")
    cached_model(root, version, bundle, threads=1)  # raises if it is damaged or does not load
    remember(root, version, bundle, live=False)
    return set_pin(root, version, bundle, by, why)


def _bundle_of(root: Path, version: str, say) -> tuple[str, Releases | None]:
    """(digest of the version's bundle, the release store if it can be read)."""
    try:
        releases = open_store(load_params(root / "params.yaml").store, root)
        found = {pointer.version: pointer.bundle for pointer in releases.history()}
        if not found and read_known(root).live is not None:
            raise EvergreenError("it is empty, as if it were moved or not mounted")
    except Exception as error:  # the store, or what params.yaml says of it: a pin is for bad nights
        known = read_known(root).versions
        if version in known:
            say(f"the release store cannot be read ({_short(error)}): this machine's copy is used")
            return known[version], None
        here = ", ".join(known) or "none"
        raise EvergreenError(
            f"the release store cannot be read ({_short(error)}), and {version} was never loaded on this machine: "
            f"versions that can be pinned now: {here}"
        ) from None
    if version not in found:
        raise EvergreenError(f"{version} was never live: versions that can be pinned: {', '.join(found) or 'none yet'}")
    return found[version], releases


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
