"""Images: names to files, files to square RGB, and what changes them in training."""
