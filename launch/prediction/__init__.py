"""Predictions for pictures and videos."""
