"""What a Gaussian mixture is: families, statistics, M-step, prior, repair, queries."""
