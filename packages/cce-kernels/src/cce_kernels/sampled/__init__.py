"""Losses over sampled negatives."""
