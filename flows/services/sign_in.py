"""`evergreen ui`: open Prefect's UI, signed in with the checkout's secret.

The secret goes through a local page that only its owner can read. In an address it would stay in the browser's history,
and other users of the machine see the arguments of every process.
"""

import shlex
import webbrowser
from html import escape
from pathlib import Path

from flows.server.api import Api
from flows.server.checkout import checkout
from flows.server.guard import SIGN_IN
from flows.server.process import running
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.paths import state_dir

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in to Prefect</title>
<form method="post" action="{action}"><input type="hidden" name="auth" value="{auth}">
<button>Sign in to Prefect at {ui}</button></form><script>document.forms[0].submit()</script></html>
"""


def open_ui(root: Path, browse=webbrowser.open) -> list[str]:
    """Open the UI in the person's browser; returns what to tell them. Raises EvergreenError if no server runs."""
    page, ui = sign_in_page(root), _server(root)["ui"]
    if browse(page.as_uri()):
        return [f"opened {ui} in your browser"]
    return [f"no browser here: open {page} in yours, or use `evergreen ui --show`"]


def sign_in_page(root: Path) -> Path:
    """Write the local page that signs a browser in, and return its path."""
    server = _server(root)
    page = state_dir(root) / "sign-in.html"
    with atomic_path(page, private=True) as temporary:
        text = PAGE.format(
            action=escape(server["ui"] + SIGN_IN), auth=escape(checkout(root).auth), ui=escape(server["ui"])
        )
        temporary.write_text(text, encoding="utf-8")
    return page


def sign_in_lines(root: Path) -> list[str]:
    """The address of the UI, and what to type into its sign-in or into PREFECT_API_AUTH_STRING."""
    server = _server(root)
    return [f"address:     {server['ui']}", f"sign in as:  {checkout(root).auth}"]


def export_lines(root: Path) -> list[str]:
    """Shell commands that let Prefect's own command line use this checkout's server and name its events."""
    own, server = checkout(root), _server(root)
    values = Api(server["url"], own.auth).environment() | {"EVERGREEN_CHECKOUT": own.id}
    values |= {"PREFECT_HOME": str(state_dir(root) / "prefect")}
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def _server(root: Path) -> dict:
    server = running(root)
    if server is None:
        raise EvergreenError("no Prefect server of this checkout runs: `evergreen up` starts it")
    return server
