"""The networks of LatentSync: tensors in, tensors out. Importing any of them loads torch."""
