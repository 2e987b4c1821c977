"""Between a point and `rec_models`: its settings and batches, ranking users, training on the whole log."""
