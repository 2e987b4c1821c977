"""The sequence store, and batches made from it."""
