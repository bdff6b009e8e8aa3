"""The keys of mobilenet_v1's configs."""

from ._kinds import ConfigKeys
from ._shared import MOBILENET

KEYS = ConfigKeys(fields=MOBILENET)
