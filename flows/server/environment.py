"""Environment variables of the project's Prefect server, and of the processes that talk to it."""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from flows.server.serve import NAMES, PASSWORD
from tasks.common.checkout import Checkout
from tasks.common.errors import EvergreenError
from tasks.common.loopback import is_loopback, no_proxy
from tasks.common.params import ServeParams
from tasks.common.paths import state_dir

QUIET = {  # stops libraries from phoning home and from printing banners
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_CLI_PROMPT": "false",
}
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"  # of a database other than Prefect's own file
RETRIES = {"PREFECT_CLIENT_MAX_RETRIES": "6"}  # two minutes, in which a server that died is started again
# without it Prefect starts a server of its own, which has no secret, where a process finds no address of one
NO_OTHER_SERVER = {"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}


def environment(root: Path) -> dict[str, str]:
    """Environment of a process that talks to the project's server, or to the one that the user configured."""
    # PREFECT__* belong to the flow run that may have started this command; a child starts a flow run of its own
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    values = RETRIES | inherited | QUIET | NO_OTHER_SERVER | no_proxy()
    values.setdefault("PREFECT_HOME", str(state_dir(root) / "prefect"))
    if "?" in (home := values["PREFECT_HOME"]):  # in the address that Prefect makes of it, "?" begins a query
        database = f"sqlite+aiosqlite:///file:{quote(home)}/prefect.db?uri=true"
        values.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", database)
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", "")])
    return values


def server_environment(serve: ServeParams, own: Checkout, url: str, people: bool = False) -> dict[str, str]:
    """What the server needs in addition to `environment`: database, secret, password, and who may call it.

    people: whether somebody can sign in at the console. Raises EvergreenError if it should listen on the network and
    nobody can.
    """
    check_password(serve, people)
    values = {
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": own.auth,
        "PREFECT_SERVER_API_AUTH_STRING": own.auth,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
        "PREFECT_UI_API_URL": "/api",  # only the browser knows by which name it came
        NAMES: ",".join(serve.hosts),
    }
    if password := os.environ.get(serve.password_env):
        values[PASSWORD] = password
    if database := os.environ.get(serve.database_env):
        values[DATABASE] = _asyncpg(database, serve.database_env)
    return values


def check_password(serve: ServeParams, people: bool = False) -> None:
    """Raise EvergreenError if services should listen beyond loopback and nobody there could sign in."""
    if not is_loopback(serve.host) and not people and not os.environ.get(serve.password_env):
        raise EvergreenError(
            f"serve.host in params.yaml is {serve.host}: beyond loopback somebody must be able to sign in. Let people "
            f"in with `evergreen people add NAME`, or set the environment variable {serve.password_env}; or use "
            "127.0.0.1 (and a tunnel)."
        )


def has_people(root: Path) -> bool:
    """Whether somebody was added with `evergreen people add` (flows.console.people.store) and not revoked."""
    try:
        known = json.loads((state_dir(root) / "people.json").read_bytes())["people"].values()
        return any(one["revoked"] is None for one in known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: nobody gets in
        return False


def shown_host(serve: ServeParams) -> str:
    """The address at which this machine reaches what listens on `serve.host`."""
    if is_loopback(serve.host) or serve.host in ("0.0.0.0", "::"):
        return "127.0.0.1" if serve.host != "::1" else "[::1]"
    return f"[{serve.host}]" if ":" in serve.host else serve.host


def _asyncpg(url: str, variable: str) -> str:
    """`url` with the driver that Prefect needs. Errors never repeat the address: it holds a password."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in ("postgres", "postgresql", "postgresql+asyncpg", "sqlite+aiosqlite"):
        raise EvergreenError(
            f"{variable} is not a database URL that Prefect knows: expected postgresql+asyncpg://user:password@host/name"
        )
    return f"{'postgresql+asyncpg' if scheme.startswith('postgres') else scheme}://{rest}"
