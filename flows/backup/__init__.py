"""`evergreen backup` and `evergreen restore`: the state that git does not track, in one archive."""
