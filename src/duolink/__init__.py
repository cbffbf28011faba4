"""A real-time link between clients."""
