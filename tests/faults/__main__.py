"""`make faults`: run every test of the matrix with all seeds and sizes, then write docs/faults.md.

    python -m tests.faults [--write] [--again] [--only ROW ...]

Tests run file by file. After each file the results are kept in docs/faults.json with the hash of the code that they are
of, so a call that was stopped goes on where it was. --write renews the page from what is kept and runs nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from datetime import date
from pathlib import Path

from tasks.common.files import content_key, sha256_file
from tests.faults import report
from tests.faults.matrix import ROWS
from tests.support.checkout import ROOT, git

CODE = ("tasks", "flows", "monitoring", "serving", "benchmarks", "tests", "params.yaml", "dvc.yaml")


def code() -> str:
    """A hash of everything that a result depends on."""
    files = git(ROOT, "ls-files", "-co", "--exclude-standard", "--", *CODE).splitlines()
    return content_key([[name, sha256_file(ROOT / name)] for name in sorted(files) if (ROOT / name).is_file()])[:8]


def run(file: str, names: list[str]) -> dict[str, dict]:
    """Run the tests `names` of `file`; returns {name: {outcome, seconds, cases}}."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "results.xml"
        wanted = [f"{ROOT}/tests/{name}" for name in names]
        env = {**os.environ, "EVERGREEN_FAULTS": "all", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={xml}", *wanted]
        subprocess.run(command, cwd=ROOT, env=env)
        found = {name: {"outcome": "failed", "seconds": 0.0, "cases": 0} for name in names}
        if not xml.is_file():
            return found
        good: dict[str, list[bool]] = defaultdict(list)
        for case in ET.parse(xml).getroot().iter("testcase"):
            name = f"{file}::{case.get('name').partition('[')[0]}"
            if name in found:
                good[name].append(not any(child.tag in ("failure", "error", "skipped") for child in case))
                found[name]["seconds"] += float(case.get("time"))
                found[name]["cases"] += 1
        for name, each in good.items():
            found[name]["outcome"] = "passed" if each and all(each) else "failed"
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the page; run nothing")
    parser.add_argument("--again", action="store_true", help="also run what passed with this code")
    parser.add_argument("--only", nargs="+", type=int, choices=ROWS, default=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    results, now = report.read_results(), code()
    files: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for number in options.only for name in ROWS[number].tests):
        known = results["tests"].get(name, {})
        if options.again or (known.get("code"), known.get("outcome")) != (now, "passed"):
            files[name.partition("::")[0]].append(name)
    failed = []
    for number, (file, names) in enumerate({} if options.write else files.items(), 1):
        print(f"{number} of {len(files)}: {file} ({len(names)} tests)", flush=True)
        for name, one in run(file, names).items():
            results["tests"][name] = one | {"date": date.today().isoformat(), "code": now}
            failed += [name] if one["outcome"] == "failed" else []
        report.write(results)
    report.write(results)
    print("\n".join(f"FAILED {name}" for name in failed) or f"docs/faults.md: {len(ROWS)} faults")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
