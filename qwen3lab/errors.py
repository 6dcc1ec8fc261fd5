"""The course's exception, whose message a learner can act on."""

from __future__ import annotations

import re

from qwen3lab.locale import translate


class Qwen3labError(RuntimeError):
    """Error that the learner can fix.

    The message is one sentence that says what is wrong and one that says what to do.
    """

    def __str__(self) -> str:
        """Return the message in the learner's language."""
        return translate(super().__str__(), "error")

    @property
    def what(self) -> str:
        """Return the first sentence, what is wrong, without its full stop."""
        return self._sentences()[0]

    @property
    def advice(self) -> str:
        """Return what follows the first sentence, what to do; "" if nothing does."""
        return self._sentences()[-1] if len(self._sentences()) > 1 else ""

    def _sentences(self) -> list[str]:
        return re.split(r"\. |。", str(self).rstrip(".。"), maxsplit=1)
