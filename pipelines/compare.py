"""Deprecated: use ``cutrec compare``."""

from pipelines import deprecated

if __name__ == "__main__":
    deprecated.run("compare")
