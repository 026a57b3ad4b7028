"""`evergreen upgrade`: newer Evergreen code, without losing what the user changed."""
