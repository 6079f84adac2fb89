"""Score clips: metrics, decisions, intervals, predictions and exported models."""
