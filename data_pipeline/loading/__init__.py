"""From packed sets to batches, through Grain."""
