"""The paper's tables: their points and settings, our results beside them, and the commands that make both."""
