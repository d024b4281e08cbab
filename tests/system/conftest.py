"""What every test of the whole system may ask for: the same as end-to-end tests."""

from tests.e2e.conftest import target, tunnel, world

__all__ = ["target", "tunnel", "world"]
