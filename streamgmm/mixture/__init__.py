"""Gaussian mixtures: families, statistics, M-step, prior, repair, queries."""
