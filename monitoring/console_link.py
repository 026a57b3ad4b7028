"""Addresses of the console's pages, for people: in alerts, in Prefect, on the terminal.

They are under `serve.public_url` of params.yaml. Without it they name what `evergreen up` listens on; where that is
every address of the machine, its name stands for it, because 127.0.0.1 leads readers of an alert to their own machine.
"""

import platform
from pathlib import Path
from urllib.parse import quote, urlsplit

from tasks.common.checkout import known_checkout
from tasks.common.loopback import is_loopback
from tasks.common.params import ServeParams, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.rebuildable import expect_dict, read_rebuildable

SERVICE = "pages"  # the console's name in services.json
EVERYWHERE = ("0.0.0.0", "::")  # what a server listens on to be reached by every address of the machine


def console_link(root: Path, path: str = "/") -> str:
    """The address of the console's page `path`, which begins with a slash."""
    serve = load_params(main_checkout(root) / "params.yaml").serve
    return console_address(serve, _port(root)) + path


def console_started(root: Path) -> bool:
    """Whether `evergreen up` started this checkout's console."""
    return _port(root) is not None


def console_address(serve: ServeParams, port: int | None = None) -> str:
    """The console's address without a slash at its end. port: that it listens on now, if not `serve.port`."""
    return serve.public_url or f"http://{reached_host(serve.host)}:{port or serve.port}"


def reached_host(host: str) -> str:
    """The name by which others reach what listens on `host`."""
    if host in EVERYWHERE:
        return platform.node()
    if is_loopback(host) and host != "::1":
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def quoted(name: str) -> str:
    """`name` as one part of a page's path."""
    return quote(name, safe="")


def _port(root: Path) -> int | None:
    """The port of this checkout's console; None if `evergreen up` did not start it."""
    found = read_rebuildable(state_dir(root) / "services.json", _accept, "the port of params.yaml is named")
    own = known_checkout(root)
    if found is None or own is None or found[0] != own.id:  # a copied project's file tells of the original
        return None
    return urlsplit(found[1].get(SERVICE, {}).get("url") or "").port


def _accept(about: dict) -> tuple[str | None, dict[str, dict]]:
    return about.get("checkout"), expect_dict(about["services"], dict)
