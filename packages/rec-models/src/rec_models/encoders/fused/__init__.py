"""The network between embeddings and scores in Triton: fewer launches and fewer passes over its activations."""
