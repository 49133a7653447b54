"""``date``: calendar dates.

**Values.** A day from ``min`` to ``max``, written as ``template`` says. ``date_layout`` lists its directives. The
default is the extended form of ISO 8601, ``%Y-%m-%d``. The basic form is a template, too: ``%Y%m%d``. It is not read by
default, because many numbers have eight digits. With ``%y``, the range has less than 100 years, and the year is the one
of four digits with which the day is in the range.

**Tokens.** One of n days: those from ``min`` to ``max``, or with ``keep_year`` those of them that are in the value's
year, of four digits also with ``%y``. In the order of the calendar, the token is day number b, counted from 0, where b
is *a number below n*. It is written as the value is. With ``%-d`` or ``%-m`` its length can differ from the value's.

A token is a date like any other. It has no mark. From 1900-01-01 to 2099-12-31 there are 73,049 days. This is few:
whoever may tokenize can have the tokens of all days made, and then knows the value of every token.

**Space.** n.

**Definition.** ``template``, ``min`` and ``max`` (as ``YYYY-MM-DD``), ``keep_year``.
"""

from token_worker.tokens.formats.date_layout import compile_template
from token_worker.tokens.formats.dates import DateParameters, Dates, Template


class OnlyDateParameters(DateParameters, frozen=True, kw_only=True):
    """Parameters of ``date``.

    Attributes:
        template: how dates are written.
    """

    template: Template = "%Y-%m-%d"


class Date(Dates[OnlyDateParameters]):
    """Calendar dates."""

    kind = "date"
    parameters_type = OnlyDateParameters

    def __init__(self, name: str, parameters: OnlyDateParameters) -> None:
        super().__init__(name, parameters, compile_template(parameters.template, with_time=False))

    def _expected(self) -> str:
        return f"a date as {self.layout.shown}, from {self._first} to {self._last}"

    def _drawing(self) -> dict[str, str | int | bool]:
        return {"template": self.parameters.template, **super()._drawing()}
