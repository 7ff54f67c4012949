"""What `mastpro doctor` reports, line by line."""

from typing import NamedTuple

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    """One line of the report."""

    status: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.text}" + (f"; {self.remedy}" if self.remedy else "")
