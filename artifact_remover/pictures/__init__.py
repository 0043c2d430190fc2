"""Pictures: reading and writing image files with their metadata, and what a JPEG's header says; no TensorFlow."""
