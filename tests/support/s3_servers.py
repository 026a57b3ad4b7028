"""Two real S3 servers for the tests: import `moto` and `rclone` into a test module and name them as fixtures.

moto enforces conditional writes but no credentials; `rclone serve s3` checks signatures but ignores conditions.
Each is a process of its own, started once in a session on a free port and stopped by its pid.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

KEY, SECRET = "AKIATESTEVERGREEN", "a-secret-that-no-message-may-show"
STARTS_WITHIN = 60  # seconds, on a loaded machine
BIN = Path(sys.executable).parent

MOTO = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
app = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=False)  # moto looks and writes without a lock between
"""


@dataclass(frozen=True)
class Server:
    """A running S3 server. `folder`: where its objects are files (rclone); None for moto."""

    endpoint: str
    conditional: bool
    folder: Path | None = None

    @cache  # noqa: B019  (two servers live as long as the tests)
    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@pytest.fixture
def credentials(monkeypatch, tmp_path: Path) -> None:
    """The environment of a user with credentials for both servers, and nothing of this machine's."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def environment(folder: Path) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "no-aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-aws-credentials"),
    }


@pytest.fixture(scope="session")
def moto(tmp_path_factory) -> Iterator[Server]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("rclone")
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [BIN / "rclone", "serve", "s3", "--addr", address, "--config", os.devnull, "--vfs-cache-mode", "off"]
    with _running(command, folder.parent / "rclone.log", port, RCLONE_AUTH_KEY=f'"{KEY},{SECRET}"', serve=folder):
        yield Server(f"http://{address}", conditional=False, folder=folder)


@contextmanager
def moto_server(folder: Path) -> Iterator[Server]:
    """A moto server while the block lasts; it logs into `folder`."""
    port = free_port()
    with _running([sys.executable, "-c", MOTO, str(port)], folder / "moto.log", port):
        yield Server(f"http://127.0.0.1:{port}", conditional=True)


@contextmanager
def _running(command: list, log: Path, port: int, serve: Path | None = None, **env: str) -> Iterator[None]:
    with open(log, "wb") as out:
        arguments = [str(part) for part in [*command, *([serve] if serve else [])]]
        process = subprocess.Popen(arguments, stdout=out, stderr=out, env={**os.environ, **env})
        try:
            until = time.monotonic() + STARTS_WITHIN
            while not answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{arguments[0]} does not serve on port {port}:\n{log.read_text()}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()


def answers(port: int) -> bool:
    """Does an HTTP server answer at `port`? Any status will do."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
