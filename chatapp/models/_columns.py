"""Columns that several tables share."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

from sqlalchemy import String
from sqlalchemy.orm import mapped_column

from chatapp.database import utcnow


def new_id() -> str:
    """Return a UUID v4 as text (RFC 9562)."""
    return str(uuid.uuid4())


Id = Annotated[str, mapped_column(String(36), primary_key=True, default=new_id)]
Created = Annotated[datetime, mapped_column(default=utcnow)]
