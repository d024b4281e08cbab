"""The public half: accepts clients and visitors, routes by name, forwards raw bytes."""
