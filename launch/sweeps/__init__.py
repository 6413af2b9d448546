"""Sweeps: their runs, and the running of them."""
