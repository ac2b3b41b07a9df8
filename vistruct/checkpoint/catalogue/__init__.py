"""Public weights by name: what they are, where they are published, and whether they are on this machine."""
