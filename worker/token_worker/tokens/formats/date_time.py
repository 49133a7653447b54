"""``datetime``: dates with a time of day.

**Values.** Without ``template``: the extended form of ISO 8601 as RFC 3339 and databases write it ::

    YYYY-MM-DD ("T" | " ") hh:mm [ ":" ss [ "." 1 to 9 digits ] ] [ "Z" | ("+" | "-") hh [ [":"] mm ] ]

with hours from 00 to 23, minutes and seconds from 00 to 59, in the offset, too. Not read are the basic form, lower-case
``t`` and ``z``, a comma before the fraction, the hour 24, and the leap second 60, which many databases cannot hold, and
which no token would have. With ``template``: as ``date_layout`` says.

The date is that of ``date``. ``min`` and ``max`` are compared with the date as it is written. The offset does not
count.

**Tokens.** Only date, time of day and fraction are drawn. The rest is as in the value, also the text of the offset. So
is the precision: no seconds if the value has none, and as many digits in the fraction. Whatever the order in the
template, they are drawn in this order:

1. The date, as for ``date``.
2. The time of day: *a number below* 86,400, the second of the day; or if the value has no seconds, below 1,440, the
   minute of the day.
3. The fraction: as many characters of ``0-9``, in that order, as the value has.

A token is a date and time like any other. It has no mark. In a zone with summer time it can be a time that no clock
shows.

**Space.** The product of three numbers: of days, as for ``date``; 86,400, or 1,440 if the value has no seconds; and 10
to the power of the number of digits in the fraction.

**Definition.** ``template`` (absent if it is not set), ``min`` and ``max`` (as ``YYYY-MM-DD``), ``keep_year``.

**Canonical spelling.** The date and the time have a ``T`` between them. The offset is ``Z``, or there is none. So one
moment has one spelling in each precision. The precision is part of the value: ``12:00``, ``12:00:00`` and
``12:00:00.0`` differ.
"""

from token_worker.tokens.formats.base import FormatError, Spelling
from token_worker.tokens.formats.date_layout import FIELDS, Layout, compile_template
from token_worker.tokens.formats.dates import DateParameters, Dates, Moment, Template


def _iso() -> Layout:
    year, month, day, hour, minute, second, fraction, offset = (
        FIELDS[directive] for directive in ("%Y", "%m", "%d", "%H", "%M", "%S", "%f", "%z")
    )
    fields = [year, month, day, hour, minute, second, fraction, offset]
    texts = [f"(?P<{field.group}>{field.pattern})" for field in fields]
    date, time = "-".join(texts[:3]), ":".join(texts[3:5])
    pattern = rf"{date}(?P<between>[T ]){time}(?::{texts[5]}(?:\.{texts[6]})?)?{texts[7]}?"
    return Layout(pattern, fields, "YYYY-MM-DDThh:mm, with or without seconds, fraction and offset")


_ISO = _iso()


class DateTimeParameters(DateParameters, frozen=True, kw_only=True):
    """Parameters of ``datetime``.

    Attributes:
        template: how dates and times are written. None: as ISO 8601.
        spelling: ``canonical`` refuses a space before the time, and every offset but ``Z``.
    """

    template: Template | None = None
    spelling: Spelling = "as-is"


class DateTime(Dates[DateTimeParameters]):
    """Dates with a time of day."""

    kind = "datetime"
    parameters_type = DateTimeParameters

    def __init__(self, name: str, parameters: DateTimeParameters) -> None:
        template = parameters.template
        layout = _ISO if template is None else compile_template(template, with_time=True)
        self._is_canonical = parameters.spelling == "canonical"
        if self._is_canonical and "offset" not in layout.groups:
            raise FormatError("spelling", "this template leaves one spelling; leave it out")
        super().__init__(name, parameters, layout)

    def _expected(self) -> str:
        spelling = "; the offset can only be Z" if self._is_canonical else ""
        return f"a date and time as {self.layout.shown}, from {self._first} to {self._last}{spelling}"

    def _drawing(self) -> dict[str, str | int | bool]:
        template = self.parameters.template
        return {**({} if template is None else {"template": template}), **super()._drawing()}

    def _problem(self, read: Moment) -> str | None:
        if not self._is_canonical:
            return None
        text = read.text.groupdict()
        return self.expected if text["offset"] not in (None, b"Z") or text.get("between") == b" " else None
