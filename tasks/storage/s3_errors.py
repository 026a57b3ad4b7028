"""Turn S3 errors into messages that say what to do, without secrets.

A server's own message may repeat the key id, the string to sign or the policy, so only its error code is shown.
"""

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from tasks.common.errors import EvergreenError

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
)
UNREACHABLE = (boto.HTTPClientError, boto.ConnectionError)  # refused, no such host, timed out, TLS, proxy, cut off
WRONG_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"}
OLD_KEYS = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
CHAIN = (
    "they come from where AWS tools look: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE and `aws "
    "configure`, or the machine's role"
)


class S3Error(EvergreenError):
    """An S3 request failed. A write may still have happened: the caller reads the key back."""


class ObjectChanged(S3Error):
    """The object was replaced or removed while it was being read."""


def code(error: Exception) -> str:
    """The S3 error code: "NoSuchKey", a status like "404" if the reply has no body, "" for a transport error."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status(error: Exception) -> int:
    """HTTP status of the reply; 0 if there was no reply."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_not_found(error: Exception) -> bool:
    """Whether the key does not exist, although its bucket does."""
    return status(error) == 404 and code(error) != "NoSuchBucket"


def is_refused(error: Exception) -> bool:
    """Whether the request certainly had no effect. False: no reply, or a reply that leaves it open."""
    if isinstance(error, ClientError):
        return 400 <= status(error) < 500 and status(error) not in (404, 408, 409, 412)
    return isinstance(error, NO_CREDENTIALS)


def explain(error: BotoCoreError | ClientError, doing: str, bucket: str, endpoint: str | None) -> S3Error:
    """`error` as a message with a remedy. `doing` is the failed action ("reading s3://b/k")."""
    at = endpoint or "AWS"
    found = code(error)
    if isinstance(error, NO_CREDENTIALS):
        why = f"no usable credentials were found ({type(error).__name__}): {CHAIN}"
    elif isinstance(error, UNREACHABLE):
        why = (
            f"{at} does not answer ({type(error).__name__}). Check the network, and store.endpoint_url in params.yaml "
            "(null: AWS)"
        )
    elif found == "NoSuchBucket":
        why = f"there is no bucket {bucket!r} at {at}: create it, or name another one in the s3:// address"
    elif found in WRONG_KEYS:
        why = f"{at} does not accept the credentials ({found}): {CHAIN}. Check which are set, and for which server"
    elif found in OLD_KEYS:
        why = f"the credentials have expired ({found}): log in again, or set new ones"
    elif found == "RequestTimeTooSkewed":
        why = "this machine's clock is wrong by more than S3 accepts: set it"
    elif found in ELSEWHERE or status(error) == 301:
        why = f"the bucket {bucket!r} is in another region than the one asked: set AWS_REGION to the bucket's region"
    elif status(error) in (401, 403):
        why = (
            f"{at} forbids it ({found or status(error)}): the credentials are wrong, or lack a right. Evergreen "
            "needs s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket, s3:AbortMultipartUpload and "
            "s3:ListBucketMultipartUploads on the bucket"
        )
    elif status(error) == 429 or status(error) >= 500:
        why = f"{at} fails or is overloaded ({found or status(error)}), even after retries: try again later"
    else:
        why = f"{at} answered {found or type(error).__name__}"
    return S3Error(f"{doing} failed: {why}.")
