"""Great Expectations on the table of photos: a training on a broken delivery does not start."""

import os

import pandas as pd

os.environ["GX_ANALYTICS_ENABLED"] = "false"
import great_expectations as gx
from great_expectations import expectations as gxe


def check(photos: pd.DataFrame) -> None:
    """Raise SystemExit with what is wrong."""
    classes = sorted(photos[photos["split"] == "train"]["label"].unique())
    expected = [
        gxe.ExpectTableRowCountToBeBetween(min_value=50),
        gxe.ExpectColumnValuesToNotBeNull(column="label"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=classes),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "val", "test"]),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=16),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=16),
        gxe.ExpectColumnValuesToBeBetween(column="bytes", min_value=100),
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("photos").add_dataframe_asset("photos")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": photos})
    found = batch.validate(gx.ExpectationSuite(name="photos", expectations=expected))
    failed = [one.expectation_config.type for one in found.results if not one.success]
    if failed:
        raise SystemExit(f"the photos are refused: {', '.join(failed)}")
