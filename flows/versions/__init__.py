"""Every retained version: verify, repair, compare, delete, erase images."""
