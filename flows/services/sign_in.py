"""`evergreen open`: open the console in a browser, signed in as the owner of the checkout.

A link signs in once, within minutes (tasks.common.tickets). The browser gets it from a local page that only its owner
can read: other users of the machine see the arguments of every process, and could be faster than the browser.
"""

import shlex
import webbrowser
from html import escape
from pathlib import Path

from flows.server.api import Api
from flows.server.environment import QUIET
from flows.server.process import running
from flows.services.pools import pool_values
from flows.services.up import services
from monitoring.console_link import SERVICE, console_link
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.paths import state_dir
from tasks.common.tickets import SECONDS, make_ticket

CONSOLE = "console"  # what a ticket of these links opens
PATH = "/sign-in"  # of the console
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Evergreen: {folder}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="0; url={link}">
<h1>{folder}</h1><p><a href="{link}">Open the console</a>: the link signs you in once.</p></html>
"""
LASTS = f"it works once, within {SECONDS // 60} minutes"
ASKED = ("pages", "prefect", "evidently")


def open_console(root: Path, browse=webbrowser.open) -> list[str]:
    """Open the console in the person's browser; returns what to tell them. Raises EvergreenError if it does not run."""
    page = sign_in_page(root)
    if browse(page.as_uri()):
        return [f"opened {_console(root)} in your browser, signed in"]
    return ["no browser here: open this link in yours, or in one that reaches this machine", sign_in_line(root)]


def sign_in_page(root: Path) -> Path:
    """Write the local page that leads a browser to the console and signs it in; returns its path."""
    link, page = escape(f"{_console(root)}{PATH}/{make_ticket(root, CONSOLE)}"), state_dir(root) / "sign-in.html"
    with atomic_path(page) as temporary:
        temporary.write_text(PAGE.format(folder=escape(str(root)), link=link), encoding="utf-8")
    return page


def sign_in_line(root: Path) -> str:
    """A link that signs in, for a person who reads the terminal."""
    _console(root)
    return f"sign in:     {console_link(root, f'{PATH}/{make_ticket(root, CONSOLE)}')}   ({LASTS})"


def sign_in_lines(root: Path) -> list[str]:
    """A link that signs a browser in, and what programs send."""
    line, server, auth = sign_in_line(root), _server(root)["ui"], checkout(root).auth
    found = {name: url for name, url, well in services(root) if name in ASKED and well and url} | {"prefect": server}
    user, _, password = auth.partition(":")
    asked = {name: f"user {user}, password {password}" for name in ASKED} | {"prefect": auth}
    return [line, *(f"{name + ':':<13}{found[name]}   {asked[name]}" for name in ASKED if name in found)]


def export_lines(root: Path) -> list[str]:
    """Shell commands that let Prefect's own command line use this checkout's server, and that fill in prefect.yaml.

    Where no server of the checkout runs, PREFECT_API_URL may name one of the user's.
    """
    given = Api.from_environment()
    if given is None or running(root):
        given = Api(_server(root)["url"], checkout(root).auth)
    values = QUIET | given.environment() | {"PREFECT_HOME": str(state_dir(root) / "prefect")} | pool_values(root)
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]


def _console(root: Path) -> str:
    """The console's address on this machine."""
    url = next((url for name, url, well in services(root) if name == SERVICE and well), None)
    if url is None:
        raise EvergreenError("the console of this checkout does not run: `evergreen up` starts it")
    return url


def _server(root: Path) -> dict:
    server = running(root)
    if server is None:
        raise EvergreenError("no Prefect server of this checkout runs: `evergreen up` starts it")
    return server
