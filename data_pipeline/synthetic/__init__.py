"""Drawn faces and planted forgeries."""
