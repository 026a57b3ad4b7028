"""The stores on which the tests of this room run."""

from tests.support.s3_servers import credentials, moto, rclone  # noqa: F401  (fixtures)
from tests.support.stores import local, params, releases, shared, store  # noqa: F401  (fixtures)
