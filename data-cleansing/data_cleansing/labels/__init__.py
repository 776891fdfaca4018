"""Which labels of a training set are wrong, judged by networks that were trained without them."""
