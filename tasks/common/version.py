"""Evergreen's own version.

pyproject.toml reads it from here, so it is written in one place. No stage imports this module: a new version alone
must not retrain anything.
"""

VERSION = "0.2.0"
