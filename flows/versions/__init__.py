"""Every kept version: walk, verify, repair, diff, delete, forget."""
