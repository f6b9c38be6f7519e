"""Speed and memory, each compared with a rival in the same run. `python -m benchmarks` writes docs/benchmarks.md."""
