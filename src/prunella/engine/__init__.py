"""The CPU engine: a packed file in, answers out. Needs no torch."""
