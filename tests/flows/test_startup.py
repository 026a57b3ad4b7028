"""What short commands do not import."""

import subprocess
import sys

from tests.support.checkout import ROOT


def test_pyarrow_works_without_pandas_until_it_is_needed():
    """In a process of its own: this one has pandas."""
    code = """
import sys
from flows.startup import keep_pandas_out
keep_pandas_out()
import pyarrow
table = pyarrow.table({"label": ["bag", None]})
assert "pandas" not in sys.modules
assert list(table.to_pandas()["label"]) == ["bag", None]
import pandas
assert pyarrow.array(pandas.Series([1.0, float("nan")])).null_count == 1
keep_pandas_out()
assert pandas is sys.modules["pandas"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
