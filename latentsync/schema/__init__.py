"""Request and response models, and the table of engines."""
