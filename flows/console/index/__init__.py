"""SQLite index of images, answers and windows for the console: made from records, deleted at will."""
