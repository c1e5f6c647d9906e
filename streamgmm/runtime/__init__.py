"""Where tasks run and what survives: executors, the fold, Dask, checkpoints, array files."""
