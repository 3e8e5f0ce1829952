"""Drives UmaDB through its own client as `ringlog-load run` drives the others, and writes the same fields of JSON.

    umadb_load.py run --url URL --connections N --batch N (--duration S | --count REQUESTS) [--warmup S] [--rate EVENTS]
                      [--event-bytes N] [--seed N] [--stop-file FILE] [--begin-file FILE] --json FILE
    umadb_load.py count --url URL          reads the newest event, then prints how many there are; fails when there is none

Closed loop without --rate. With it an open loop: request i is due at i / rate, and latency counts from that moment.
Events are made before the run: the types, entities and sizes are those of ringlog-load, the words are others.
"""

import argparse
import itertools
import json
import os
import random
import sys
import threading
import time

from umadb import Client, Event

TYPES = ["order.created", "order.fulfilled", "payment.processed", "payment.refunded", "user.signed_up", "user.logged_in",
         "cart.item_added", "cart.item_removed", "inventory.reserved", "shipment.dispatched"]
EVENT_COUNT = 16384
ENTITY_COUNT = 10_000


def make_events(seed, event_bytes):
    rng = random.Random(seed)
    events = []
    for number in range(EVENT_COUNT):
        event_type = rng.choice(TYPES)
        entity = f"e-{rng.randrange(ENTITY_COUNT):08x}"
        size = event_bytes + rng.randrange(-event_bytes // 5, event_bytes // 5 + 1)
        # What the JSON of ringlog-load has around the payload's note, so that an event carries as many bytes.
        around = len(event_type) + len(entity) + 100
        payload = {"seq": f"{number:016x}", "n": rng.randrange(1000), "note": "x" * max(0, size - around)}
        events.append(Event(event_type, json.dumps(payload, separators=(",", ":")).encode(), tags=[f"entity:{entity}"],
                            metadata={"source": f"load-{rng.randrange(10)}"}))
    return events


class Run:
    def __init__(self, args):
        self.args = args
        self.events = make_events(args.seed, args.event_bytes)
        self.turns = itertools.count()
        self.ready = threading.Barrier(args.connections + 1)
        self.done = []
        self.errors = {}
        self.begins_at = self.from_at = self.to_at = 0.0

    def has_ended(self):
        return self.to_at <= time.perf_counter()

    def work(self, index):
        args, client = self.args, Client(self.args.url)
        client.head()
        batches = [self.events[at:at + args.batch] for at in range(0, EVENT_COUNT - args.batch + 1, args.batch)]
        at = index * 37
        self.ready.wait()
        self.ready.wait()
        per_second = args.rate / args.batch if args.rate else None
        done = []
        while not self.has_ended():
            turn = next(self.turns)
            if args.count is not None and args.count <= turn:
                break
            intended_at = None
            if per_second:
                intended_at = self.begins_at + turn / per_second
                if self.to_at <= intended_at:
                    break
                wait = intended_at - time.perf_counter()
                if 0 < wait:
                    time.sleep(wait)
            sent_at = time.perf_counter()
            at += 1
            try:
                client.append(batches[at % len(batches)])
            except Exception as error:  # noqa: BLE001  counted by kind, as ringlog-load does
                kind = type(error).__name__
                self.errors[kind] = self.errors.get(kind, 0) + 1
                if isinstance(error, RuntimeError) and not self.is_patient(client):
                    break
                continue
            done.append((sent_at if intended_at is None else intended_at, sent_at, time.perf_counter()))
        self.done.append(done)

    @staticmethod
    def is_patient(client):
        try:
            client.head()
            return True
        except Exception:  # noqa: BLE001  whatever it is, the server is gone
            return False

    def conduct(self):
        args = self.args
        threads = [threading.Thread(target=self.work, args=(index,), daemon=True) for index in range(args.connections)]
        for thread in threads:
            thread.start()
        self.ready.wait()
        self.begins_at = time.perf_counter()
        self.from_at = self.begins_at + args.warmup
        self.to_at = self.from_at + args.duration if args.duration else float("inf")
        if args.begin_file:
            open(args.begin_file, "wb").close()
        self.ready.wait()
        while any(thread.is_alive() for thread in threads):
            if args.stop_file and os.path.exists(args.stop_file):
                self.to_at = 0.0
            time.sleep(0.05)
        return self.summary()

    def summary(self):
        args = self.args
        done = [one for some in self.done for one in some]
        to_at = self.to_at if args.duration and self.to_at else max((one[2] for one in done), default=self.from_at)
        seconds = max(to_at - self.from_at, 1e-9)
        measured = [one for one in done if self.from_at <= one[2] <= to_at]

        def quantile(values, q):
            return values[min(len(values) - 1, int(q * len(values)))] * 1e6 if values else 0.0

        service = sorted(one[2] - one[1] for one in measured)
        result = {
            "loop": "open" if args.rate else "closed",
            "seconds": seconds,
            "events_per_second": len(measured) * args.batch / seconds,
            "requests_per_second": len(measured) / seconds,
            "service_p50_us": quantile(service, 0.5),
            "service_p99_us": quantile(service, 0.99),
        }
        if args.rate:
            response = sorted(one[2] - one[0] for one in done if self.from_at <= one[0] <= to_at)
            result["response_p50_us"] = quantile(response, 0.5)
            result["response_p99_us"] = quantile(response, 0.99)
        result |= {
            "events_measured": len(measured) * args.batch,
            "requests_measured": len(measured),
            "events_good": len(done) * args.batch,
            "requests_good": len(done),
            "error_count": sum(self.errors.values()),
            "errors": self.errors,
            "connections": args.connections,
        }
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "count"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--duration", type=float)
    parser.add_argument("--count", type=int)
    parser.add_argument("--warmup", type=float, default=0.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--closed", action="store_true", help="what it does without --rate")
    parser.add_argument("--event-bytes", type=int, default=220)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, help="taken and not used: the client has its own")
    parser.add_argument("--stop-file")
    parser.add_argument("--begin-file", help="made when the first request is about to be sent")
    parser.add_argument("--json")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.command == "count":
        client = Client(args.url)
        newest = list(client.read(backwards=True, limit=1))
        if not newest or not newest[0].event.data:
            sys.exit(1)
        print(client.head())
        return
    if args.duration is None and args.count is None:
        parser.error("--duration or --count")
    result = Run(args).conduct()
    with open(args.json, "w", encoding="utf-8") as out:
        out.write(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
