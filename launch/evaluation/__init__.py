"""Evaluation of trained runs, or of scores files."""
