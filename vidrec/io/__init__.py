"""Read and write files whole: JSON, arrays, checkpoints, and what a run's folder holds."""
