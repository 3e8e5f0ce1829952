#!/usr/bin/env python3
"""Sends log records with the OpenTelemetry SDK as it is published, and fails when its exporter says that it failed.

    python3 -m venv /tmp/otel && /tmp/otel/bin/pip install opentelemetry-exporter-otlp-proto-http
    /tmp/otel/bin/python scripts/clients/otel_logs.py http://127.0.0.1:3900/otlp/v1/logs KEY 1000

Record i has the body `record i`, the attributes `index` = i and `session.id` = `session i % 10`, and the event name
`client.test` when i is even; the service is `otel-logs-client` and the host `otel-host`. --compression gzip compresses.
"""
import argparse
import sys
import time

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.resources import Resource


class Judge(OTLPLogExporter):
    """The published exporter; it only remembers what the published code returned."""

    failed = 0

    def export(self, batch):
        result = super().export(batch)
        if result is not LogRecordExportResult.SUCCESS:
            self.failed += len(batch)
        return result


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("endpoint")
parser.add_argument("key")
parser.add_argument("count", type=int, nargs="?", default=100)
parser.add_argument("--batch", type=int, default=512, help="records in a request")
parser.add_argument("--compression", choices=["none", "gzip"], default="none")
arguments = parser.parse_args()

exporter = Judge(
    endpoint=arguments.endpoint,
    headers={"authorization": f"Bearer {arguments.key}"},
    compression=Compression.Gzip if arguments.compression == "gzip" else Compression.NoCompression,
)
provider = LoggerProvider(resource=Resource.create({"service.name": "otel-logs-client", "host.name": "otel-host"}))
# The queue holds everything, so that the SDK drops nothing by itself.
provider.add_log_record_processor(
    BatchLogRecordProcessor(exporter, max_queue_size=arguments.count + arguments.batch, max_export_batch_size=arguments.batch)
)
logger = provider.get_logger("otel_logs", "1.0")
for index in range(arguments.count):
    logger.emit(
        LogRecord(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=f"record {index}",
            event_name="client.test" if index % 2 == 0 else None,
            attributes={"index": index, "session.id": f"session {index % 10}"},
        )
    )
is_flushed = provider.force_flush(60_000)
provider.shutdown()
if exporter.failed or is_flushed is False:
    sys.exit(f"the exporter failed to send {exporter.failed} of {arguments.count} records")
print(f"{arguments.count} records sent")
