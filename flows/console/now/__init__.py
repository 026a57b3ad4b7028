"""What waits for a person, and what is going on."""
