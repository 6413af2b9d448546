"""Captions and masks of others as annotation lines and truth; our captions as questions for other trainers."""
