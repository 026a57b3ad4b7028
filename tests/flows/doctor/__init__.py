"""Tests of `evergreen doctor`."""
