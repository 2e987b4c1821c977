"""Top-k lists and target ranks over the whole catalogue."""
