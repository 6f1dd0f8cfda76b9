"""gocraft/work: the default layout. `Gocraft` is the protocol; everything else here serves it."""

from packhorse.protocols.gocraft.protocol import Gocraft

__all__ = ["Gocraft"]
