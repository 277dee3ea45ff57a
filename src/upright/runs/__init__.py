"""A run: everything that training advances, and its folder."""
