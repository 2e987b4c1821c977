"""The paper's tables: their points, what they prescribe, what was measured of them."""
