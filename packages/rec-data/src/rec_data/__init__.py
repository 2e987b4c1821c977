"""Interaction logs in, sequences and batches out.

Data passes through the subpackages in this order:

- ``sources`` and ``raw``: any source (demo, synthetic log, own file, published data set) becomes one parquet file of
  interactions, the *log*;
- ``splits``: a strategy divides the log into training, validation and test sequences;
- ``sequences``: the sequences as a memory-mapped store of flat item ids plus offsets, and the batches read from it.

``sequences`` needs torch, numpy and pyarrow only. Reading and splitting raw logs needs the extra ``sources``.
"""
