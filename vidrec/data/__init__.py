"""Turn videos, images and ready features into clips, their frames and their splits."""
