"""Lines of text, reading glyphs, and translating numbers between scripts."""
