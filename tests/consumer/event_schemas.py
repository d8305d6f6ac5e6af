"""Holds events to their JSON Schemas, with a validator that is a stranger to our code.

Standard input: one JSON array of {"name", "schema", "events": [...]}. Says each event that its schema does not allow, and
fails where there is one.
"""

import json
import sys

import jsonschema_rs

wrong = 0
for one in json.load(sys.stdin):
    validator = jsonschema_rs.validator_for(one["schema"])
    for event in one["events"]:
        for error in validator.iter_errors(event):
            wrong += 1
            print(f"{one['name']}: {error.message} at {error.instance_path}: {json.dumps(event)}", file=sys.stderr)
sys.exit(1 if wrong else 0)
