"""Names that Minari datasets written here have, and by which they are recognized."""

FRAME, STATE, TIMES = "frame", "state", "timestamps"
"""The two observations and the one entry of the infos that we write."""

OURS = "project_ranni"
"""Key of Minari's metadata, of the dataset and of each episode, that contains our attributes."""
