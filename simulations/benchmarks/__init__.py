"""Benchmarks as commands: fedtags-sim bench NAME."""
