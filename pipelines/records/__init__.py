"""What is measured, of what, where and with which versions: one schema for all results."""
