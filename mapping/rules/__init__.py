"""Rules, their operations, and the files that hold them."""
