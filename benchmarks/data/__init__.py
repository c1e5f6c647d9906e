"""The rows and the starts that everybody is given."""
