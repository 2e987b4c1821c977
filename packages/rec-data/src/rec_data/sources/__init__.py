"""Sources of raw logs: the demo, synthetic logs, own files and published data sets."""
