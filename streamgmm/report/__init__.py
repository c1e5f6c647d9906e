"""Pictures and reports of a fit: its path, and one self-contained interactive page."""
