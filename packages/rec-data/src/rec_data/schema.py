"""The column names of every file of this package."""

USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"

HISTORY = "history"
TIMESTAMPS = "timestamps"
TARGET = "target"
TARGET_TIME = "target_time"

ORIGINAL_ID = "original_id"
COUNT = "count"

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks per second of every unit of time."""

ITEMS = "items"
"""The flat item ids of the sequence store (a list column there)."""
