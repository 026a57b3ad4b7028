"""Work on the shards of a project by many machines: Ray, and the place that they share."""
