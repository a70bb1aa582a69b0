"""Steps of the LatentSync engine around its networks."""
