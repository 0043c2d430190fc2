"""Photographs as data sets of TensorFlow Datasets, one builder per folder."""
