"""CLIPs of others, measured as they are and taught more."""
