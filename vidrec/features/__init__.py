"""Compute and store the features of a frozen encoder."""
