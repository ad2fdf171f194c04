"""Where the arrays live decides which engine runs the native rules on them."""
