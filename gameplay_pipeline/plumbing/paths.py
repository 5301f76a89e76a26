"""Where data may lie."""

from pathlib import Path


def is_url(location: str | Path) -> bool:
    """Whether a dataset lies behind a URL such as https://, s3://, gs:// or hf://."""
    return "://" in str(location)
