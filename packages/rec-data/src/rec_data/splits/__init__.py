"""Division of a log into train, validation and test."""
