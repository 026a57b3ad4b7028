"""`evergreen doctor`: one function per check of what a project needs, and how to repair it."""
