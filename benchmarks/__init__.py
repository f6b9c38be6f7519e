"""Speed and memory, each beside a rival of the same run; `python -m benchmarks` writes docs/benchmarks.md."""
