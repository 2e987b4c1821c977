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

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Text that is read as an integer: at most 18 digits, which fit into 64 bits, and no leading zero ("007" is text)."""
