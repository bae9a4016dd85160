"""Registered models and their files."""
