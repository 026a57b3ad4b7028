"""The bundle format and the release store."""
