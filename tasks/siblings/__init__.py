"""Images of one object that nobody recorded as a group: in file names, capture times and features."""
