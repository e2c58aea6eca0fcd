"""What the benchmarks share: timing, tasks, tuning, and the tables they write."""
