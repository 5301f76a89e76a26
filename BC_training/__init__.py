"""Behavior cloning: from a zarr dataset of recorded fights to a policy that presses the buttons."""
