"""The parts of benchmarks.loop_vs_scripts: photos to deliver, runs to measure, the arms, the figures."""
