"""A disk that refuses what is asked of it."""

import errno
import os


def refuse_to_open(monkeypatch, name):
    """As a disk, a share or a server that fails for a while."""
    really = os.open

    def refusing(path, *others):
        if name in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return really(path, *others)

    monkeypatch.setattr(os, "open", refusing)
