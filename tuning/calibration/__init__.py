"""Calibrating a GPU: which timings to take, taking them, and fitting the cost model to them."""
