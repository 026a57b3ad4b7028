from flows.runs.summary import SUMMARIES


def test_validate_says_how_many_images_are_quarantined_and_why():
    figures = {"accepted": 617, "rows": 660, "classes": 3, "checks": 17}
    assert SUMMARIES["validate"](figures) == "617 of 660 accepted, 3 classes, 17 checks passed"
    figures["quarantined"] = {"expectation": 40, "truncated": 2, "unknown_label": 1}
    figures["left_out"] = {}
    assert SUMMARIES["validate"](figures).endswith("checks passed; 42 quarantined (expectation, truncated)")


def test_one_shard_is_not_called_shards():
    assert SUMMARIES["embed"]({"rows": 60, "dim": 1280, "shards": 1}) == "60 x 1,280 features in 1 shard"
