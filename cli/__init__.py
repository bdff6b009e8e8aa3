"""The `tfreader` command."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit codes
