"""One file a noun: URL, schema, service, response. Never a rule.

Each member has a `blueprint`. What they share lives in `_json.py` and `_stream.py`.
"""
