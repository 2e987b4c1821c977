"""The exact softmax cross-entropy over the whole catalogue."""
