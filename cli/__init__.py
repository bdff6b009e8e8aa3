"""The `tfreader` command."""
