"""Training: the three stages of a run, what they minimize, and what watches them."""
