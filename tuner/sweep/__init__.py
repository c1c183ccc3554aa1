"""Ray Tune: sequential trials, live progress."""
