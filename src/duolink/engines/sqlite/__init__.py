"""The engine that survives: one SQLite file holds clients, logs, shared state and mailboxes."""
