"""Memory and time of training, predicted from sizes and rates."""
