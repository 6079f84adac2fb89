"""Read and write complete files: JSON, arrays, checkpoints, and the files of a run's folder."""
