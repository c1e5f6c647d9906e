"""What survives damage, signals, crashes and long streams."""
