"""Members of JSON whose values are those of an enum."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pydantic_core import core_schema


@dataclass(frozen=True)
class OneOf:
    """Marks a member as one of an enum's values: `Annotated[str, OneOf(Verify)]`. With the enum as
    the member's type, the OpenAPI document would have a component for it, and a value would not be
    plain text."""

    values: type[Enum]

    def __get_pydantic_core_schema__(self, *_: object) -> core_schema.CoreSchema:
        """Return pydantic's schema of a literal."""
        return core_schema.literal_schema([one.value for one in self.values])
