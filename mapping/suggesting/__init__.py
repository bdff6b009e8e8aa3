"""Rule files for models that nobody has seen, of names and shapes."""
