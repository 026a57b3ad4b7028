"""The benchmark of a merge, in its quick pass."""

from benchmarks import class_merge


def test_a_merge_gives_what_a_fresh_data_set_gives(tmp_path):
    figures = {figure.name: figure.value for figure in class_merge.run(tmp_path, None, quick=True)}
    assert figures["merge_label_mismatches"] == 0
    assert figures["merge_50k_s"] > 0
