"""Read the clips of videos, images and ready-made features, and split them into parts."""
