"""The product: what people import and run."""
