"""Files behind URLs: found, read by byte ranges, and uploaded. Imported for a URL alone.

`calls` asks servers; `stores` knows which one a URL means; `file` is read as local ones are; `path`
is like a Path.
"""

from .file import RemoteFile
from .path import RemotePath

__all__ = ["RemoteFile", "RemotePath"]
