"""The accuracy study: which trials it runs, how they are run, and what they show."""
