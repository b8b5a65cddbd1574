"""Programs that measure Motus beside what it stands on: `python -m benchmarks.<name>`."""
