"""deploy/s3-policy.json: what Evergreen does in S3 works with these rights, and with no fewer.

A moto server of its own checks the rights of each request, as AWS does.
"""

import json
import urllib.request
import uuid
from pathlib import Path

import boto3
import pytest
import s3fs

from tasks.storage import s3_store
from tasks.storage.blobs import Conflict
from tasks.storage.s3_errors import S3Error
from tasks.storage.s3_store import S3Store
from tests.support.checkout import ROOT
from tests.support.s3_servers import environment, moto_server

BUCKET, PREFIX = "cameras", "team"
POLICY = (ROOT / "deploy/s3-policy.json").read_text().replace("EXAMPLE-BUCKET", BUCKET)
POLICY = json.loads(POLICY.replace("EXAMPLE-PREFIX", PREFIX))
ACTIONS = [action for statement in POLICY["Statement"] for action in statement["Action"]]
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Account:
    """A moto server that checks rights, as its admin sees it."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "a"}
        self.keys = self._user("admin", ALL, keys), self._user("runs", POLICY, keys)
        for name in (BUCKET, "elsewhere"):
            boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", plain))

    def _user(self, name: str, policy: dict, keys: dict) -> dict[str, str]:
        iam = boto3.client("iam", endpoint_url=self.endpoint, **keys)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}

    def allow(self, policy: dict) -> None:
        """Give the user of the runs exactly these rights."""
        iam = boto3.client("iam", endpoint_url=self.endpoint, **self.keys[0])
        iam.put_user_policy(UserName="runs", PolicyName="p", PolicyDocument=json.dumps(policy))


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iam")
    with moto_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        found = Account(server.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", found.keys[1]["aws_access_key_id"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", found.keys[1]["aws_secret_access_key"])
        yield found


def use(endpoint: str, large: Path) -> None:
    """Everything that a run does: the probe, writes on a condition, parts, lists, sweeps, removal, and DVC's remote."""
    s3_store._enforcing.clear()
    store = S3Store(f"s3://{BUCKET}/{PREFIX}", endpoint_url=endpoint)
    store.sweep()
    name = uuid.uuid4().hex
    store.create(f"objects/{name}", large)
    assert store.about(f"objects/{name}")[0] == large.stat().st_size
    token = store.swap(f"{name}.json", b"{}", None)
    with pytest.raises(Conflict):
        store.swap(f"{name}.json", b"[]", None)
    store.swap(f"{name}.json", b"[]", token)
    assert f"{name}.json" in list(store.list(""))
    place = store.bucket.s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}/{name}")
    store.bucket.s3.abort_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}/{name}", UploadId=place["UploadId"])
    store.remove(f"objects/{name}")
    remote = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True, use_listings_cache=False)
    file = f"{BUCKET}/{PREFIX}/dvc/files/md5/00/{name}"
    remote.put_file(str(large), file)
    assert remote.find(f"{BUCKET}/{PREFIX}/dvc") == [file]
    assert remote.cat_file(file)[:2] == large.read_bytes()[:2]
    remote.rm_file(file)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("large") / "large"
    file.write_bytes(b"ab" * ((s3_store.PART >> 1) + 1))
    return file


def test_a_run_has_every_right_it_needs_and_none_elsewhere(account, large):
    account.allow(POLICY)
    use(account.endpoint, large)
    for url in ("s3://elsewhere/team", f"s3://{BUCKET}/other"):
        with pytest.raises(S3Error, match="forbids"):
            S3Store(url, endpoint_url=account.endpoint).create("x", b"1")


@pytest.mark.parametrize("action", ACTIONS)
def test_every_right_is_needed(account, large, action):
    fewer = [one | {"Action": [each for each in one["Action"] if each != action]} for one in POLICY["Statement"]]
    account.allow(POLICY | {"Statement": fewer})
    with pytest.raises(Exception, match=r"forbids|Access ?Denied|Forbidden|403"):
        use(account.endpoint, large)
