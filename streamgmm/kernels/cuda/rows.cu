// Rows picked by their numbers: only what common.cuh holds.
