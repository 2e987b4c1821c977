"""What `cutrec.recommender` is made of: frames and ids, the form of a log, whom lists are asked for, their items."""
