#!/usr/bin/env python3
"""Waits until a server has as many events as a file expects, and compares them field by field. Exits with 1 at any difference.

    found.py ADDRESS KEY TENANT EXPECTED.json

EXPECTED.json is a list of events: `event_type`, `entity_id`, `payload`, `metadata` and, where it is known, `timestamp`. Each must
match one stored event and no stored event may be left over. A value is compared as it stands; {"is": KIND} stands for whatever
is of that kind: `id` (32 hexadecimal digits), `now` (a time within the last ten minutes: milliseconds,
nanoseconds as digits, or RFC 3339), `text`. A member whose name ends with `?` may be missing; a member "...": true allows others.
"""
import datetime
import json
import re
import sys
import time
import urllib.request

WITHIN_SECONDS = 30


def is_now(value):
    if isinstance(value, str) and not value.isdigit():
        at = datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    else:
        at = int(value)
        while at > 1e11:
            at /= 1000
    return abs(time.time() - at) < 600


KINDS = {
    "id": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value),
    "text": lambda value: isinstance(value, str),
    "now": is_now,
}


def differences(expected, found, at):
    if isinstance(expected, dict) and list(expected) == ["is"]:
        return [] if KINDS[expected["is"]](found) else [f"{at}: {found!r} is no {expected['is']}"]
    if isinstance(expected, dict) and isinstance(found, dict):
        may_be_missing = {name.removesuffix("?") for name in expected if name.endswith("?")}
        has_others = "..." in expected
        expected = {name.removesuffix("?"): value for name, value in expected.items() if name != "..."}
        names = expected.keys()
        wrong = [f"{at}.{name}: missing" for name in sorted(names - found.keys() - may_be_missing)]
        if not has_others:
            wrong += [f"{at}.{name}: {found[name]!r} is not expected" for name in sorted(found.keys() - names)]
        for name in sorted(names & found.keys()):
            wrong += differences(expected[name], found[name], f"{at}.{name}")
        return wrong
    is_same = type(expected) is type(found) and expected == found
    return [] if is_same else [f"{at}: {found!r} instead of {expected!r}"]


def stored(address, key, tenant):
    headers = {"authorization": f"Bearer {key}", "x-tenant-id": tenant}
    request = urllib.request.Request(f"http://{address}/api/v1/events/query?limit=10000", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["events"]


def main():
    address, key, tenant, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    fields = {"event_type", "entity_id", "payload", "metadata", "timestamp"}
    begun = time.monotonic()
    while len(found := stored(address, key, tenant)) < len(expected) and time.monotonic() - begun < WITHIN_SECONDS:
        time.sleep(0.05)
    wrong = []
    if len(found) != len(expected):
        wrong.append(f"{len(found)} events instead of {len(expected)}")
    left = list(found)
    for event in expected:
        looked_at = {name for name in fields if name in event}
        tried = [(differences(event, {name: other[name] for name in looked_at}, "event"), other) for other in left]
        nearest, other = min(tried, key=lambda one: len(one[0]), default=(["no event is left"], None))
        if nearest:
            wrong.append(f"no event is {json.dumps(event)}\n    nearest: {json.dumps(other)}\n    " + "\n    ".join(nearest))
        else:
            left.remove(other)
    wrong += [f"not expected: {json.dumps(event)}" for event in left]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(found)} events, as they were sent")


main()
