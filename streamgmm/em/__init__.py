"""Fitting: the loop, its variants, solvers, initialization, k-means, online EM."""
