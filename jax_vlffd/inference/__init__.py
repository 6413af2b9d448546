"""Trained detectors: reading them and predicting with them."""
