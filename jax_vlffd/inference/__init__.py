"""Trained detectors: reading them and asking them."""
