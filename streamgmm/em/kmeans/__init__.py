"""K-means: centres, Lloyd's step, and the parallel initialization."""
