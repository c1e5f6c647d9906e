"""What one pass can summarize: a sample, moments, quantiles."""
