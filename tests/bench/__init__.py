"""Benchmarks: every figure is a ratio beside an alternative that is measured in the same run."""
