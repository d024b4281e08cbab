"""A self-hosted reverse tunnel: relay and client built from one package."""

__version__ = "0.1.0"
