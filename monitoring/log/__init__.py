"""The production log: capture, storage, rows, schema."""
