"""The one exception that users see: the command line prints its sentence and exits with status 2."""


class AlexNetError(Exception):
    """What was given, what was expected and what to do next, in one sentence."""


class Diverged(AlexNetError):
    """Training whose loss became infinite or not a number."""


class Interrupted(AlexNetError):
    """A run stopped by a signal after it was saved; `status` is the exit status (130 or 143)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
