"""Define cells, scanners, encoders and the model that joins them, as Flax modules."""
