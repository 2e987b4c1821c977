"""Deprecated: use ``cutrec describe``."""

from pipelines import deprecated

if __name__ == "__main__":
    deprecated.run("describe")
