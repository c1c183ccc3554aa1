"""Face images: synthetic, from folders or from InsightFace sets; their splits, pairs and batches."""
