"""The accuracy study: its plan, its runs, what they come to."""
