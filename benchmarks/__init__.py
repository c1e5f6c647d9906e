"""What the package costs and reaches, measured: ``python -m benchmarks`` lists the benchmarks, and runs one of them."""
