"""A Postgres server of its own on a free port of loopback, for tests: `with postgres() as url`.

The programs are found on PATH or where Debian puts them. `python -m tests.support.postgres`, which `make test` runs
first, installs them where they are missing. Postgres refuses to run as root, so root runs it as another user.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.s3_servers import free_port
from tests.support.waiting import until

DEBIAN = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60")


def program(name: str) -> str | None:
    """The path of a program of Postgres's; None if it is not installed."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(DEBIAN))


def install() -> None:
    """Make sure that there is a Postgres: by apt for root. Exits with what to do where it cannot."""
    if program("initdb"):
        return
    said = ""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Postgres (once): tests run Prefect's server on it", flush=True)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "postgresql"]):
            done = subprocess.run(["apt-get", *step], env=env, capture_output=True, text=True, timeout=900)
            said = (done.stdout + done.stderr)[-1000:]
        DEBIAN[:] = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    if not program("initdb"):
        sys.exit(
            f"{said}\ninitdb is not here, and tests run Prefect's server on Postgres. Install it (Debian: `apt install "
            "postgresql`), then run `make test` again."
        )


@contextmanager
def postgres(name: str = "prefect") -> Iterator[str]:
    """Address of the empty database `name` of a new server, with user and password, while the block lasts."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    other = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    password, port = secrets.token_urlsafe(12), free_port()
    # not below pytest's folder: only its owner may enter that
    with tempfile.TemporaryDirectory(prefix="evergreen-postgres-", dir="/tmp") as folder:
        data, secret = Path(folder) / "data", Path(folder) / "password"
        secret.write_text(password)
        if user:
            for path in (folder, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        options = ["--auth=scram-sha-256", "--username=evergreen", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"]
        made = subprocess.run(
            [program("initdb"), "-D", data, *options], cwd=folder, capture_output=True, text=True, **other
        )
        assert made.returncode == 0, made.stderr
        settings = [part for one in (*FAST, f"port={port}", "listen_addresses=127.0.0.1") for part in ("-c", one)]
        with open(Path(folder) / "log", "wb") as log:
            command = [program("postgres"), "-D", data, *settings, "-c", "unix_socket_directories="]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **other)
            try:
                address = f"postgresql://evergreen:{password}@127.0.0.1:{port}"
                until(lambda: answers(f"{address}/postgres"), 60)
                ask(f"{address}/postgres", f"create database {name}")
                yield f"{address}/{name}"
            finally:
                server.send_signal(signal.SIGINT)  # ends at once, in order
                server.wait(30)


def answers(url: str) -> bool:
    """Whether the server at `url` takes connections: while it starts it refuses them, or says so."""
    import asyncpg

    try:
        return bool(ask(url, "select 1"))
    except (OSError, asyncpg.PostgresError):
        return False


def ask(url: str, statement: str) -> list[tuple]:
    """The rows that `statement` returns."""
    import asyncio

    import asyncpg

    async def fetch() -> list[tuple]:
        connection = await asyncpg.connect(url, timeout=20)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


if __name__ == "__main__":
    install()
