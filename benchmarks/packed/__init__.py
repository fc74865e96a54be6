"""Every token once, measured against verl's own engine: `python -m benchmarks.packed`."""
