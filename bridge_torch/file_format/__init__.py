"""torch's checkpoint files: zip archives and the legacy format."""
