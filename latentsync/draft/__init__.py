"""The draft engine's parts: mouth shapes over time, and the warp that puts them on a face."""
