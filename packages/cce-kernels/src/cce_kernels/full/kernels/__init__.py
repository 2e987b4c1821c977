"""Triton kernels of the exact loss."""
