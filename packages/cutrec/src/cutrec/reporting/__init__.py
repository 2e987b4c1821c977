"""The report page, and what describes or compares runs."""
