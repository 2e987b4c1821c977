"""One Triton kernel and its launcher per file; each head gives the formula, the bytes moved and the FLOPs."""
