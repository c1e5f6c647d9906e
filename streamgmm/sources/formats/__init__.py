"""One file for each format that rows are read from."""
