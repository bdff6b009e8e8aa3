"""Files behind URLs: found, read by byte ranges, and uploaded. Imported for a URL alone.

`calls` asks servers, again where that helps; `stores` knows which one a URL means; `objects` is
one file as its server has it; `file` reads it as local ones are read; `path` is like a Path.
"""

from .file import RemoteFile
from .path import RemotePath

__all__ = ["RemoteFile", "RemotePath"]
