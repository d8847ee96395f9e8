"""Fake parties, the protocol as a story, local federations, experiments."""
