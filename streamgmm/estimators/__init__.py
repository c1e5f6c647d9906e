"""The scikit-learn classes, and `select`."""
