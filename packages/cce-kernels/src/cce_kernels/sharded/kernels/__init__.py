"""Triton kernels that only losses over sharded rows need."""
