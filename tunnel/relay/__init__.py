"""The public half: accepts clients and visitors, routes by name, forwards raw bytes.

`tunnel.relay.Relay` is what a program embeds; `python -m tunnel.relay` runs one.
"""

from typing import TYPE_CHECKING

__all__ = ["Relay"]

if TYPE_CHECKING:
    from tunnel.relay.server import Relay
else:

    def __getattr__(name: str) -> object:
        """Import what is asked for (PEP 562): `relay.pyz --version` needs none of it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tunnel.relay.server import Relay  # noqa: PLC0415 - only once it is wanted

        return Relay
