#!/usr/bin/env python3
"""Keeps the topic `commands` of an environment as a golden log: see README.md.

The file is gzip of lines of JSON: first {"schema": the Avro schema of all commands}, then for each record, in the order of its
partition, {"partition", "offset", "timestamp": milliseconds, "key", "command": the Avro datum in base64}.

Usage: record.py BROKERS REGISTRY_URL TOPIC_PREFIX FILE
"""

import base64
import gzip
import json
import struct
import sys
import urllib.request

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

WIRE_FORMAT = struct.Struct(">bI")  # a zero byte, the schema's id


def records(brokers, topic):
    """Every record of a topic, partition after partition, from its beginning to where it ends now."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "golden", "enable.auto.commit": False})
    for partition in sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions):
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        offset = -1
        while offset + 1 < end:
            message = consumer.poll(30)
            assert message is not None and message.error() is None, f"{topic}-{partition}: {offset} of {end}"
            offset = message.offset()
            yield message
    consumer.close()


def main(brokers, registry, prefix, path):
    lines, schemas = [], set()
    for message in records(brokers, f"{prefix}commands"):
        magic, schema = WIRE_FORMAT.unpack_from(message.value())
        assert magic == 0, "not in Confluent's wire format"
        schemas.add(schema)
        command = base64.b64encode(message.value()[WIRE_FORMAT.size :]).decode()
        lines.append(
            {
                "partition": message.partition(),
                "offset": message.offset(),
                "timestamp": message.timestamp()[1],
                "key": message.key().decode(),
                "command": command,
            }
        )
    assert len(schemas) == 1, f"commands of {len(schemas)} schemas"
    with urllib.request.urlopen(f"{registry.rstrip('/')}/schemas/ids/{schemas.pop()}", timeout=30) as answer:
        first = {"schema": json.load(answer)["schema"]}
    # Without a time in it, the same log is the same file.
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
        packed.writelines((json.dumps(line, separators=(",", ":")) + "\n").encode() for line in [first, *lines])
    print(f"{len(lines)} commands in {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
