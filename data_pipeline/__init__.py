"""From pictures on disk to batches: annotation, packing, loading. NumPy and Grain; never JAX."""
