"""What each kind of recorded file holds, and how the package makes the same."""
