"""Boards as Grafana's own model of them reads them: boards.py FILE... What it knows nothing of, or writes in another way, is an error."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def differences(ours, theirs, path):
    """What of ours is not the same in theirs, which has all defaults besides."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if not isinstance(theirs, dict) or key not in theirs:
                yield f"{path}/{key} is unknown"
            else:
                yield from differences(value, theirs[key], f"{path}/{key}")
    elif isinstance(ours, list):
        for place, value in enumerate(ours):
            yield from differences(value, theirs[place], f"{path}/{place}")
    elif ours != theirs:
        yield f"{path}: {ours!r} is read as {theirs!r}"


register_default_plugins()
found = []
for file in sys.argv[1:]:
    with open(file) as text:
        board = json.load(text)
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    found += differences(board, read, file)
if found:
    sys.exit("\n".join(found))
