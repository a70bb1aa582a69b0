"""The parts of the LatentSync engine around its networks, in the order in which data flows."""
