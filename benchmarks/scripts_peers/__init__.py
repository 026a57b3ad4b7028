"""What users would write instead of Evergreen: each loop_*.py is one such project (benchmarks.loop_vs_scripts)."""
