"""Load, overload and swaps of `evergreen serve`, and the services that others would write."""
