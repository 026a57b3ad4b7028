"""`make bench` knows every benchmark, goes on where it was stopped, and writes one page."""

import re
from dataclasses import replace

import pytest

from benchmarks import record, table
from benchmarks.bench import __main__ as bench
from benchmarks.bench import catalogue, page, running
from benchmarks.bench.catalogue import BENCHMARKS, Benchmark
from benchmarks.bench.running import Place
from benchmarks.record import Figure
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tests.support.checkout import ROOT


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    """State of its own; scripts of its own too, in place of benchmarks/."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/__init__.py").touch()
    monkeypatch.setattr(running, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path / "benchmarks")
    for module in (table, page):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text(f"{table.START}\n{table.END}\n")
    return Place(None, tmp_path / ".bench", False)


def script(place: Place, name: str, code: str) -> Benchmark:
    (place.state.parent / f"benchmarks/{name}.py").write_text(f'"""What is {name}?"""\n{code}\n')
    return Benchmark(name)


def test_every_benchmark_is_listed_and_names_options_that_it_has():
    assert not catalogue.not_listed(), "describe them in benchmarks/bench/catalogue.py"
    for one in BENCHMARKS:
        text = (ROOT / f"benchmarks/{one.name}.py").read_text(encoding="utf-8")
        asked = f"{one.arguments} {one.quick or ''}"
        for option in re.findall(r"--[a-z0-9-]+", asked):
            assert option in text, f"{one.name} has no {option}"
        assert ("{peers}" in one.arguments) == bool(one.peers), one.name
        assert catalogue.title(one.name).endswith(("?", ".")), one.name
    assert len({one.name for one in BENCHMARKS}) == len(BENCHMARKS)


def test_what_was_measured_is_not_run_again_until_its_script_changes(place, capsys):
    good = script(place, "good", "open('ran', 'a').write('x')")
    bad = script(place, "bad", "print('why it failed'); raise SystemExit(3)")
    ran = place.state.parent / "ran"
    ended = bench.run_all([good, bad], place, False, [good, bad])
    assert ran.read_text() == "x"
    kept = running.read_done(bad, place)
    assert (kept.outcome, kept.said) == ("failed", "why it failed")
    assert {name: done.outcome for name, done in ended.items()} == {"good": "measured", "bad": "failed"}
    assert "why it failed" in (place.state / "benchmarks.html").read_text()
    bench.run_all([good, bad], place, False, [good, bad])
    assert ran.read_text() == "x"
    said = capsys.readouterr().out
    assert "good: measured before" in said
    assert said.count("bad: failed") == 2
    bench.run_all([good], place, True, [good])
    assert ran.read_text() == "xx"
    script(place, "good", "open('ran', 'a').write('y')")
    bench.run_all([good], place, False, [good])
    assert ran.read_text() == "xxy"
    bench.run_all([good], replace(place, quick=True), False, [good])
    assert ran.read_text() == "xxyy", "a quick pass is another one"


def test_ctrl_c_ends_the_benchmark_and_keeps_nothing_of_it(place, monkeypatch):
    one = script(place, "slow", "import time; open('began', 'w'); time.sleep(600)")
    children = []

    class Interrupted(running.subprocess.Popen):
        def wait(self, timeout=None):
            if not children:
                children.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(running.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(one, place)
    assert children[0].poll() is not None
    assert running.read_done(one, place) is None


def test_a_benchmark_without_its_sets_or_peers_is_left_out_and_says_why(place, tmp_path):
    one = replace(script(place, "wants", ""), arguments="--set {data}/photos.parquet {kept}")
    assert running.run(one, place).said == "image sets: name their folder with --data"
    with_data = replace(place, data=tmp_path)
    assert running.lacking(one, with_data) == f"photos.parquet in {tmp_path}"
    (tmp_path / "photos.parquet").touch()
    assert running.lacking(one, with_data) == ""
    assert running.command_of(one, with_data).endswith(f"--set {tmp_path}/photos.parquet {place.state}/kept/wants")
    peer = replace(script(place, "peer", ""), arguments="{peers}", peers=("no such requirement!",))
    done = running.run(peer, place, say=lambda _: None)
    assert done.outcome == "left out"
    assert "could not be installed" in done.said
    assert not (place.state / "peers/peer").exists()


def test_the_list_says_what_is_to_do(place, capsys):
    one = script(place, "good", "if __name__ == '__main__':\n    pass")
    (line, last, unlisted) = bench.listing([replace(one, minutes=30, needs=("a clone with history",))], place)
    assert "to do (a clone with history)" in line
    assert last == "1 of 1 to do, about 0.5 hours"
    assert unlisted.endswith("so not run: good")
    with pytest.raises(EvergreenError, match="no benchmark is called nothing"):
        bench.main(["--only", "nothing"])
    assert bench.main(["--list", "--only", "splits", "--state", str(place.state)]) == 0
    assert "splits" in capsys.readouterr().out


def test_the_page_escapes_and_shows_value_goal_machine_and_date(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    figure = {"unit": "x", "better": "lower", "spread": "<script>", "goal": 0.8}
    rest = {"command": "python -m benchmarks.splits", "date": "2026-05-03", "machine": "2 cores"}
    figures = [Figure(name="good", value=0.4, **figure), Figure(name="bad", value=80, **figure)]
    figures += [Figure(name=f"bar{n}", value=n, **figure | {"goal": None}) for n in (1, 2)]
    write_json(tmp_path / "splits.json", [one.model_dump() | rest for one in figures])
    text = page.page(["splits"], {}, "now", "this machine")
    assert "<script>" not in text
    assert "1 of 2 goals are met" in text
    assert "2026-05-03, 2 cores" in text
    assert text.count("<svg") == 3, "a plot for each goal, one for the bars"
    for said in ("good: 0.4 x, goal 0.8, met", "bad: 80 x, goal 0.8, missed", "bar2"):
        assert said in text
    for width in map(float, re.findall(r'<rect x="[\d.]+" y="5" width="([\d.]+)"', text)):
        assert 2 <= width <= page.MIDDLE


def test_a_quick_pass_of_one_benchmark_writes_the_page_and_records_nothing(tmp_path, monkeypatch):
    before = sorted((file, file.read_bytes()) for file in record.FOLDER.glob("*.json"))
    assert bench.main(["--quick", "--only", "startup", "--state", str(tmp_path)]) == 0
    assert "measured" in (tmp_path / "quick.html").read_text()
    assert sorted((file, file.read_bytes()) for file in record.FOLDER.glob("*.json")) == before
