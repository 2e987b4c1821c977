"""Where raw logs come from."""
