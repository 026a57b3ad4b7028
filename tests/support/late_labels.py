"""Late labels of production, as tables that the log takes."""

import pyarrow as pa

from monitoring.log.schema import late_labels_schema


def late_labels(columns: dict) -> pa.Table:
    """`columns` (id, at, annotator, label, others as wanted) of the same length, as late_labels_schema."""
    schema, rows = late_labels_schema("multiclass"), len(columns["id"])
    filled = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in schema]
    return pa.table(filled, schema=schema)
