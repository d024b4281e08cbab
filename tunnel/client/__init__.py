"""The client: it keeps connections to relays and brings their visitors to a service.

`tunnel.client.Client` is what a program embeds; `python -m tunnel.client` runs one.
"""

from typing import TYPE_CHECKING

__all__ = ["Client"]

if TYPE_CHECKING:
    from tunnel.client.client import Client
else:

    def __getattr__(name: str) -> object:
        """Import what is asked for (PEP 562): `client.pyz --version` needs none of it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tunnel.client.client import Client  # noqa: PLC0415 - only once it is wanted

        return Client
