"""Getting data: environments, recording, importing, the format on disk."""

from gameplay_pipeline.plumbing.command import end_imports_on_signals

end_imports_on_signals(__file__)
