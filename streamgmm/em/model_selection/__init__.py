"""All candidates of a selection on shared passes, and cross-validation."""
