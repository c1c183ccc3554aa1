"""The stage tree: trials share every training step that they have in common."""
