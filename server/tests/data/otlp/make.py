"""Makes the golden requests beside it: the SDK's own encoder for one, every field of the schema for the other.

    pip install opentelemetry-exporter-otlp-proto-http
    python server/tests/data/otlp/make.py server/tests/data/otlp
"""
import base64, json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

out = sys.argv[1]

def otlp_json(message):
    """protobuf's JSON, with hexadecimal ids and integers for enums as OTLP wants them."""
    document = json_format.MessageToDict(message, use_integers_for_enums=True)
    def walk(node):
        if isinstance(node, dict):
            for key in ("traceId", "spanId"):
                if key in node:
                    node[key] = base64.b64decode(node[key]).hex().upper()
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)
    walk(document)
    return document

def save(name, message):
    open(f"{out}/{name}.pb", "wb").write(message.SerializeToString())
    json.dump(otlp_json(message), open(f"{out}/{name}.json", "w"), ensure_ascii=False, separators=(",", ":"))

def value(v):
    if isinstance(v, bool): return AnyValue(bool_value=v)
    if isinstance(v, str): return AnyValue(string_value=v)
    if isinstance(v, int): return AnyValue(int_value=v)
    if isinstance(v, float): return AnyValue(double_value=v)
    if isinstance(v, bytes): return AnyValue(bytes_value=v)
    if isinstance(v, list): return AnyValue(array_value=ArrayValue(values=[value(x) for x in v]))
    if isinstance(v, dict): return AnyValue(kvlist_value=KeyValueList(values=pairs(v)))
    assert v is None
    return AnyValue()

def pairs(d):
    return [KeyValue(key=k, value=value(v)) for k, v in d.items()]

request = ExportLogsServiceRequest()
first = request.resource_logs.add(schema_url="https://opentelemetry.io/schemas/1.30.0")
first.resource.attributes.extend(pairs({"service.name": "checkout \"eu\"", "host.name": "node-7", "process.pid": 4711}))
first.resource.dropped_attributes_count = 2
scope = first.scope_logs.add(schema_url="https://opentelemetry.io/schemas/1.29.0")
scope.scope.name, scope.scope.version, scope.scope.dropped_attributes_count = "shop.payments", "1.4.2", 1
scope.scope.attributes.extend(pairs({"short": True}))
record = scope.log_records.add(time_unix_nano=1793095200123456789, observed_time_unix_nano=1793095200223456789,
    severity_number=17, severity_text="ERROR", dropped_attributes_count=3, flags=1,
    trace_id=bytes(range(1, 17)), span_id=bytes(range(0xf1, 0xf9)), event_name="payment.failed")
record.body.CopyFrom(value("card declined: \"no funds\"\n\tünïcödé 😀"))
record.attributes.extend(pairs({
    "session.id": "s-42", "http.status_code": 402, "negative": -9223372036854775808, "largest": 9223372036854775807,
    "ratio": 0.1, "tiny": 5e-324, "huge": 1.7976931348623157e308, "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"),
    "retry": False, "raw": b"\x00\xff\xfe{}", "empty": None, "list": ["a", 1, [2.5, True], {"k": "v"}], "map": {"a": {"b": []}, "c": {}},
    "": "no key", "emoji 😀": "\u2028"}))
scope.log_records.add(time_unix_nano=1793095200000001000, severity_number=9).body.CopyFrom(value({"event": "structured", "n": 1}))
bare = first.scope_logs.add()
bare.log_records.add()
bare.log_records.add(observed_time_unix_nano=1793095200000000000, severity_number=24).body.CopyFrom(value([1, "two"]))
second = request.resource_logs.add()
second.resource.attributes.extend(pairs({"host.name": "only-a-host"}))
second.scope_logs.add().log_records.add(time_unix_nano=1793095201000000000, severity_number=1, severity_text="trace",
    trace_id=bytes(16), span_id=b"").body.CopyFrom(value("from a host"))
third = request.resource_logs.add()
third.scope_logs.add().log_records.add(severity_number=13).body.CopyFrom(value("from nowhere"))
request.resource_logs.add()
save("every_field", request)

# As the SDK of Python sends it.
import logging
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry._logs import LogRecord, SeverityNumber
memory = InMemoryLogRecordExporter()
provider = LoggerProvider(resource=Resource.create({"service.name": "orders", "host.name": "node-1"}))
provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
logger = provider.get_logger("orders.api", "2.0.1")
for index, (number, text, body) in enumerate([
    (SeverityNumber.INFO, "INFO", "order accepted"), (SeverityNumber.WARN, "WARNING", "stock is low"), (SeverityNumber.FATAL, "CRITICAL", "out of memory")]):
    logger.emit(LogRecord(timestamp=1793095200000000000 + index * 1000, observed_timestamp=1793095200500000000 + index * 1000,
        severity_number=number, severity_text=text, body=body, attributes={"order.id": 100 + index, "session.id": f"s-{index}"}))
save("python_sdk", encode_logs(memory.get_finished_logs()))
