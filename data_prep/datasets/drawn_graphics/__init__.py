"""Graphics drawn by this package."""
