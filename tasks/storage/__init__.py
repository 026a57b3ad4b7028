"""Bytes by key: a local folder or an S3 prefix."""
