"""Face images: synthetic or from folders, their splits, pairs and batches."""
