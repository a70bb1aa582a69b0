"""Steps of the draft engine."""
