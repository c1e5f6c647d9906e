"""Execution and persistence: executors, the fold, Dask, checkpoints, array files."""
