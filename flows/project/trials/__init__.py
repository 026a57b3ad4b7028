"""Cheap trials on a sample of the user's images, from which `evergreen init` chooses parameters."""
