"""What the program costs beside its peers: `python -m benchmarks.peers`, `python -m benchmarks.scaling`."""
