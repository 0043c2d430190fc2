"""Training: the three stages of a run, what they minimise, and what watches them."""
