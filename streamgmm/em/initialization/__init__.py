"""Initialization: methods, the sample they see, several starts, splits and merges."""
