"""Summaries of one pass: a sample, moments, quantiles."""
