"""Interaction logs in, sequences and batches out.

The stages, in the order in which data passes through them:

- ``log``: any source (demo, twin, own file, published data set) becomes one parquet of interactions;
- ``split``: the protocol cuts that parquet into train, validation and test histories;
- ``sequences``: the histories as a memory-mapped store of flat item ids plus offsets;
- ``batches``: training and inference batches, gathered by index arithmetic.

``sequences`` and ``batches`` need torch, numpy and pyarrow only. Reading and splitting raw logs needs the extra
``sources``.
"""
