"""What a fit knows, to be looked at: its path, and one self-contained interactive page."""
