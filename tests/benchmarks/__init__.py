"""Programs that print one JSON line each; none asserts a speed, because machines differ and are noisy."""
