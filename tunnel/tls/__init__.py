"""Keys, certificates, TLS contexts, and TLS over any stream; it knows no transport."""
