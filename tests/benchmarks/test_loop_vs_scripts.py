"""The loop and its peers get the same photos; their lines, seconds and ratios are counted as the benchmark says.

The arms themselves take minutes: `python -m benchmarks.loop_vs_scripts SET KEPT --quick` runs all of them.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import loop_vs_scripts, record
from benchmarks.loops import measured, written
from benchmarks.loops.figures import figures_of
from benchmarks.loops.photos import deliver
from tasks.common.errors import DataError, EvergreenError
from tasks.common.files import write_json
from tests.support.photos import encode


def small_set(file: Path, count: int = 21) -> Path:
    """`count` small pictures of two classes; every label is said to be the other one's."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": {"bytes": encode(Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)), "PNG")},
            "aggre": ("dog", "cat")[number % 2],
            "clean_label": ("cat", "dog")[number % 2],
        }
        for number in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def result(loop: float, before: float, score: float = 0.8) -> dict:
    phase = {"before": before, "training": 10.0, "after": 1.0, "memory": 5e8}
    return {
        "build": phase | {"wall": loop - 5},
        "watch": phase | {"wall": 5.0},
        "retrain": phase | {"wall": before + 11},
        "scores": [0.7, score],
        "stored": 1e6,
        "lines": 100,
        "commands": 3,
    }


def test_deliveries_are_folders_of_photos_with_peoples_labels_and_a_true_test(tmp_path):
    folder = deliver(small_set(tmp_path / "set.parquet"), 20, tmp_path / "photos", "aggre", "clean_label")
    first, new = (sorted((folder / name).rglob("*.jpg")) for name in ("first", "new"))
    assert (len(first), len(new)) == (20, 1)
    assert not {file.name for file in first} & {file.name for file in new}
    assert Image.open(first[0]).size == (640, 480)
    for file in first:
        number = int(file.stem)
        split, label = file.parts[-3:-1]
        assert label == (("cat", "dog") if split == "test" else ("dog", "cat"))[number % 2]
    before = first[0].stat().st_mtime_ns
    deliver(tmp_path / "set.parquet", 20, folder, "aggre", "clean_label")
    assert first[0].stat().st_mtime_ns == before, "a delivery is made once"
    with pytest.raises(DataError, match="21 images, 105 are needed"):
        deliver(tmp_path / "set.parquet", 100, tmp_path / "more", "aggre", "clean_label")


def test_a_large_picture_is_delivered_as_it_is(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (800, 600), "red").save(buffer, "PNG")
    from benchmarks.loops.photos import photo

    assert Image.open(io.BytesIO(photo(buffer.getvalue(), 0))).size == (800, 600)


def test_seconds_end_at_the_first_line_that_matches_a_mark(tmp_path):
    code = "import time; print('x'); time.sleep(.3); print('training'); time.sleep(.3); print('training\\ntrained')"
    marks = {"training": "^training$", "trained": "^trained$"}
    phase = measured.run([[sys.executable, "-c", "pass"], [sys.executable, "-c", code]], tmp_path, marks)
    assert 0.3 < phase.before < phase.before + 0.3 <= phase.before + phase.training <= phase.wall
    assert phase.record()["after"] == pytest.approx(phase.wall - phase.before - phase.training)
    with pytest.raises(EvergreenError, match="says trained"):
        measured.run([["echo", "training"]], tmp_path, marks)
    with pytest.raises(EvergreenError, match="ended with 3"):
        measured.run([["sh", "-c", "exit 3"]], tmp_path)
    assert measured.run([["sh", "-c", "exit 3"]], tmp_path, accepted=(3,)).marks == {}


def test_a_hard_linked_file_is_stored_once(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_bytes(b"12")
    assert measured.stored(tmp_path) == 7


def test_lines_are_those_of_code_in_a_script_and_what_it_imports_of_its_own():
    assert (
        written.code_lines(
            '"""Doc."""\n\n# why\nx = 1  # this\n\n\ndef f():\n    """Doc.\n\n    More.\n    """\n    return 1\n'
        )
        == 3
    )
    a, b = written.modules_of("loop_a", "drift"), written.modules_of("loop_b", "drift")
    assert set(a) - set(b) == {"loop_a", "trained_folds"}
    assert set(b) - set(a) == {"loop_b", "frozen_folds", "file_cache"}
    assert written.lines_of("loop_c") < written.lines_of("loop_a", "drift")


def test_the_ratios_are_to_the_best_peer_and_those_of_the_size_where_ours_is_least_ahead():
    small = {"ours": [result(90, 20), result(80, 30)], "a": [result(400, 300)], "b": [result(100, 40, score=0.9)]}
    large = {"ours": [result(200, 10)], "c": [result(400, 20)]}
    found = {figure.name: figure for figure in figures_of({5000: small, 20000: large})}
    assert found["loop_vs_best_script_ratio"].value == pytest.approx(0.8)
    assert found["loop_vs_best_script_ratio"].met
    assert found["retrain_vs_best_script_ratio"].value == pytest.approx(0.5)
    assert found["loop_vs_scripts_points_5000"].value == pytest.approx(-10)
    assert found["loop_minutes_a_5000"].value == pytest.approx(400 / 60)
    assert "100 lines and 3 commands" in found["loop_minutes_a_5000"].spread


def test_kept_results_are_read_and_peers_get_the_time_that_ours_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "docs")
    source = small_set(tmp_path / "set.parquet")
    write_json(tmp_path / "ours-20-0.json", result(90, 20))
    with pytest.raises(EvergreenError, match="measure ours first"):
        loop_vs_scripts.training_seconds(tmp_path, 5000)
    assert loop_vs_scripts.training_seconds(tmp_path, 20) == [10.0, 10.0]
    for arm in "abc":
        write_json(tmp_path / f"{arm}-20-0.json", result(100, 40))
    loop_vs_scripts.main([str(source), str(tmp_path), "--photos", "20"])
    assert "loop_vs_best_script_ratio" in capsys.readouterr().out
    assert (tmp_path / "docs/loop_vs_scripts.json").is_file()
