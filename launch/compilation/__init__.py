"""Ahead-of-time compilation of a recipe's steps for a topology."""
