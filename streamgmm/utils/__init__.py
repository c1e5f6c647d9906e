"""Leaves: affine maps, atomic files, sample weights, random numbers by row, plain JSON."""
