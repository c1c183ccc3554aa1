"""What a sweep left behind, read and compared."""
