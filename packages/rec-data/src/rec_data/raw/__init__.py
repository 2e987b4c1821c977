"""Raw files in: formats, timestamps, ids."""
