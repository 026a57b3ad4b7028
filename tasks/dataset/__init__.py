"""Decoding images, and reading and writing shards."""
