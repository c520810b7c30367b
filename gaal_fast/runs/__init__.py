"""What a run leaves on disk: its folder, and the figures drawn from it."""
