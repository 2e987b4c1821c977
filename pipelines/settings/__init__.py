"""How settings are read: strict dataclasses, nested and dotted keys, what is known of each loss."""
