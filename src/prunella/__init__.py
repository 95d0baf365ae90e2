"""Prunella: prune once, use everywhere. Sparse pre-trained encoders, small and fast on a CPU."""

__version__ = "0.1.0"
