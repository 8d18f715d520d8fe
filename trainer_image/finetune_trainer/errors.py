"""The one exception that ends a stage with a reason of the table.

Everything that the trainer can explain is raised as :class:`StageError`; anything else is a TrainerError with a
traceback in the log.
"""

from __future__ import annotations

from finetune_api.reasons import REASONS, Reason

__all__ = ["StageError"]


class StageError(Exception):
    """A failure with its reason; the message names the field or the row and says what is wrong.

    The reason's mend is appended by whoever reports it, so messages don't repeat it. A message that names a nearer mend
    says so by ``tells_mend``, and stays as it is.
    """

    def __init__(self, reason: Reason, message: str, *, tells_mend: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.tells_mend = tells_mend

    @property
    def exit_code(self) -> int:
        """Exit code of the process; 1 for a reason that only the operator finds."""
        return REASONS[self.reason].exit_code or 1
