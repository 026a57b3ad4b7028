"""`evergreen ui`: open the project's pages in a browser, signed in with the checkout's secret.

The secret goes through a local page that only its owner can read. Other users of the machine see the arguments of every
process, and a browser keeps the addresses that it visits.
"""

import shlex
import webbrowser
from html import escape
from pathlib import Path

from flows.server.api import Api
from flows.server.process import running
from flows.services.up import services
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.paths import state_dir
from tasks.common.sign_in import PATH

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Evergreen: {folder}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<style>:root{{color-scheme:light dark}}form{{margin:.4em 0}}h1{{font-size:1.4em;overflow-wrap:anywhere}}
body{{font:16px/1.6 system-ui,sans-serif;margin:3em auto;max-width:36em;padding:0 1em}}ul{{list-style:none;padding:0}}
button{{font:inherit;color:inherit;padding:.5em 1em;width:100%;text-align:left;cursor:pointer}}</style>
<h1>{folder}</h1>
<p>Each link signs you in. This page holds the secret of this checkout: do not share it.</p>
<ul>{links}</ul></html>
"""
FORM = (
    '<li><form method="post" action="{url}"><input type="hidden" name="auth" value="{auth}">'
    "<button>{text}</button></form>\n"
)
SHOWN = {
    "pages": "Reports, releases and the review queue",
    "evidently": "Evidently's dashboard",
    "prefect": "Prefect: runs and schedules",
}


def open_ui(root: Path, browse=webbrowser.open) -> list[str]:
    """Open the local page in the person's browser; returns what to tell them. Raises EvergreenError if none runs."""
    page = sign_in_page(root)
    if browse(page.as_uri()):
        return [f"opened {page} in your browser: its links sign you in"]
    return [f"no browser here: open {page} in yours, or use `evergreen ui --show`"]


def sign_in_page(root: Path) -> Path:
    """Write the local page whose links sign a browser in, and return its path."""
    found, auth, page = _addresses(root), escape(checkout(root).auth), state_dir(root) / "sign-in.html"
    forms = [
        FORM.format(url=escape(found[name] + PATH), auth=auth, text=escape(text))
        for name, text in SHOWN.items()
        if name in found
    ]
    with atomic_path(page) as temporary:
        temporary.write_text(PAGE.format(folder=escape(str(root)), links="".join(forms)), encoding="utf-8")
    return page


def sign_in_lines(root: Path) -> list[str]:
    """The addresses, and what to type into their sign-ins."""
    found, auth = _addresses(root), checkout(root).auth
    user, _, password = auth.partition(":")
    asked = {name: f"user {user}, password {password}" for name in SHOWN} | {"prefect": auth}
    return [f"{name + ':':<13}{found[name]}   {asked[name]}" for name in SHOWN if name in found]


def export_lines(root: Path) -> list[str]:
    """Shell commands that let Prefect's own command line use this checkout's server and name its events."""
    own, server = checkout(root), _server(root)
    values = Api(server["url"], own.auth).environment() | {"EVERGREEN_CHECKOUT": own.id}
    values |= {"PREFECT_HOME": str(state_dir(root) / "prefect")}
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def _addresses(root: Path) -> dict[str, str]:
    """Addresses of what answers; Prefect's server is always among them."""
    server = _server(root)["ui"]
    return {name: url for name, url, well in services(root) if name in SHOWN and well and url} | {"prefect": server}


def _server(root: Path) -> dict:
    server = running(root)
    if server is None:
        raise EvergreenError("no Prefect server of this checkout runs: `evergreen up` starts it")
    return server
