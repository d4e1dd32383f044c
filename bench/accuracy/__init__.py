"""Measured accuracy of quantised models on data that ships with packages (docs/accuracy.md)."""
