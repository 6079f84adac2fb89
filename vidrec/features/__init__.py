"""Compute and keep the features of a frozen encoder."""
