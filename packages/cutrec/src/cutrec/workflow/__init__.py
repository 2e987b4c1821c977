"""The stages as functions."""
