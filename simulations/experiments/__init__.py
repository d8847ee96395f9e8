"""Experiments as commands: fedtags-sim experiment NAME."""
