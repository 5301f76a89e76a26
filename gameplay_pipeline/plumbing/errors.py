"""The one error for the person at the keyboard, in all packages of the project."""


class UserError(Exception):
    """Something that the person at the keyboard can mend; printed as one message, no traceback."""


class DataError(UserError):
    """Data that can't be read or used; its message names the file, array or episode."""

    def __init__(
        self, message: str, ticks: tuple[int, int] | None = None, *, is_transient: bool = False
    ):
        super().__init__(message)
        self.ticks = ticks
        """From the first bad tick to one past the last; None where it concerns everything."""
        self.is_transient = is_transient
        """Whether the data may be sound and only can't be had now, such as over a network."""
