"""Benchmarks: programs that print ratios inside one run. `python -m benchmarks` runs them all."""
