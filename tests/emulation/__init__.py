"""What stands in for a GPU and for a user's Ctrl-C."""
