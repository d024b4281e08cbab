"""Certificates from an authority (RFC 8555) by TLS-ALPN-01 (RFC 8737): ordered, kept, renewed."""
