"""Which recurrent video classifier is better, and by how much."""

__version__ = "0.1.0"
