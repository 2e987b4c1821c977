"""Triton kernels, one per file with its launcher. Importing a module of this package needs triton."""
