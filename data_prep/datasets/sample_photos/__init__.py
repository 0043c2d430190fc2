"""Photographs inside the installed scikit-image package."""
