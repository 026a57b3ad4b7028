"""Operations to kill, and what readers may see then; `benchmarks.kill_scenarios` lists them."""
