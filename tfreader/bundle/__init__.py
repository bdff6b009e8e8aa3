"""V2 checkpoints ("tensor bundles"): an index, and shards with the bytes of the values.

`index` says what each variable is and where it lies, `shards` opens the files that it lies in,
`values` reads it from there and `parts` just the runs of bytes that a part of it needs; `bundle`
puts them together.
"""

from .bundle import Bundle

__all__ = ["Bundle"]
