"""The column names of every file of this package."""

USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"

HISTORY = "history"
TIMESTAMPS = "timestamps"
TARGET = "target"

ORIGINAL_ID = "original_id"
COUNT = "count"

ITEMS = "items"
"""The flat item ids of the sequence store (a list column there)."""
