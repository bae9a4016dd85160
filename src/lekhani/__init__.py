"""Lekhani (लेखनी, "pen"): from handwriting data to a tested, registered and served generator of handwritten characters."""

__version__ = "0.1.0"
