"""`evergreen forget`: erase images from every place that holds a trace of them, and prove it."""
