"""Metrics, calibration, intervals and comparison of scored sets: numbers only."""
