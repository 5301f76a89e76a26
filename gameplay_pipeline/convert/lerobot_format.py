"""Names and paths of LeRobot's dataset format, version 3, that reading and writing share."""

SCREEN, STATE, ACTION = "observation.images.screen", "observation.state", "action"
"""The features that become frames, state and actions; `SCREEN` only where we write it."""

INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"

COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Features that every LeRobot dataset has."""
