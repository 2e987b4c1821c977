"""Metrics of ranked lists and their comparison."""
