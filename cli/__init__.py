"""The `tfreader` command."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit codes
DIFFERENT, NOT_COMPARED = 1, 2  # of `tfreader diff`, as of diff
