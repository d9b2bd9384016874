"""One module for each command: parsing and printing only."""
