"""Labelled datasets of generated glyphs, written shard by shard."""
