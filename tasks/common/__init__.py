"""Helpers and data contracts that every other package uses."""
