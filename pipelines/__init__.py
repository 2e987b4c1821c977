"""The stages of the CutRec pipeline, one thin script each, and the command-line tools around them."""
