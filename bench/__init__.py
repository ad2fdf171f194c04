"""What fusestep is measured by: `python -m bench`, from the root of the repository."""
