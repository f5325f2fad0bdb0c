"""One file a noun: tables and their queries. Never a request.

Queries take the session that they run in; who may ask is decided above.
"""

from chatapp.models import accounts, conversations, generations, limits, plans, projects, reactions, usage

__all__ = ["accounts", "conversations", "generations", "limits", "plans", "projects", "reactions", "usage"]
