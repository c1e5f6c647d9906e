"""How a mixture is fitted: the loop, its variants, solvers, initialization, k-means, online EM."""
