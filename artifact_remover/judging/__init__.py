"""Judging: how close restored pictures come to clean ones, and the reports of it."""
