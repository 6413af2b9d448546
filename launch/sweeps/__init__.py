"""Sweeps: planning and running their variants."""
