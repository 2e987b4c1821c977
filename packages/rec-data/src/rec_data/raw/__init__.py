"""Reading of raw files: formats, ids and timestamps."""
