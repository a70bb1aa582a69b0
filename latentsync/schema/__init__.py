"""What a caller may ask for, what comes back, and the engines that there are."""
