"""Where data comes from, and the one prepared form it ends in."""
