"""From data sets on disk to face crops and pairs."""
