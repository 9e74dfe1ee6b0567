"""Files that strangers made, read in a process that can do no harm."""

from testbed.untrusted.opened import Opened
from testbed.untrusted.reader import opened

__all__ = ["Opened", "opened"]
