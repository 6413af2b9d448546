"""Speed comparisons with peers; run them with `python -m launch.bench`."""
