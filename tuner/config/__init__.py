"""What a run and a search space may say, validated."""
