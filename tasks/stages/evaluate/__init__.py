"""Stage `evaluate`: the exported model on test, hard set, slices and corruptions."""
