"""Triton kernels of the sampled losses."""
