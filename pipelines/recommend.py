"""Deprecated: use ``cutrec recommend``."""

from pipelines import deprecated

if __name__ == "__main__":
    deprecated.run("recommend")
