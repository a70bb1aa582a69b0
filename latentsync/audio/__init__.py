"""What is heard: phones, loudness and voice activity of a waveform."""
