"""`make bench`: which benchmarks there are, running them one after the other, the page of their figures."""
