"""The forms in NumPy: they need no compiler, and the tuned forms are compared with them."""
