"""Speed against peers; `python -m launch.bench` is the door."""
