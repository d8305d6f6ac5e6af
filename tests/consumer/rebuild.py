#!/usr/bin/env python3
"""Rebuilds all stock of one tenant from the topics alone, as a data team would.

Reads stock.movements and stock.levels from the beginning, decodes them through the schema registry, drops repeats, and prints
one line of JSON: {"movements": n, "levels": {"item/location": ["on hand", "reserved"], ...}}. Fails if the sum of the
movements and the newest levels differ.

Usage: rebuild.py BROKERS REGISTRY_URL TOPIC_PREFIX TENANT_ID
"""

import io
import json
import struct
import sys
import urllib.request
from decimal import Decimal

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

WIRE_FORMAT = struct.Struct(">bI")  # a zero byte, the schema's id


class Registry:
    """Finds schemas by id, each once."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.schemas = {}

    def decode(self, value):
        magic, schema_id = WIRE_FORMAT.unpack_from(value)
        assert magic == 0, "not in Confluent's wire format"
        if schema_id not in self.schemas:
            with urllib.request.urlopen(f"{self.url}/schemas/ids/{schema_id}", timeout=30) as answer:
                self.schemas[schema_id] = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
        return fastavro.schemaless_reader(io.BytesIO(value[WIRE_FORMAT.size :]), self.schemas[schema_id], None)


def records(brokers, topic):
    """Every (key, value) of a topic, from its beginning to where it ends now."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "rebuild", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = {}
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        if high > low:
            ends[partition] = high
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
    while ends:
        message = consumer.poll(30)
        assert message is not None, f"{topic}: nothing comes any more, but {ends} should"
        assert message.error() is None, message.error()
        yield message.key().decode(), message.value()
        if message.offset() + 1 >= ends.get(message.partition(), 0):
            ends.pop(message.partition(), None)
    consumer.close()


def main(brokers, registry_url, prefix, tenant):
    registry = Registry(registry_url)
    sums, last = {}, 0
    for key, value in records(brokers, f"{prefix}stock.movements"):
        if key != tenant:
            continue
        movement = registry.decode(value)
        if movement["sequence"] <= last:
            continue  # a repeat
        assert movement["sequence"] == last + 1, f"movement {last + 1} is missing"
        last = movement["sequence"]
        level = sums.setdefault(f"{movement['item_id']}/{movement['location_id']}", [Decimal(0), Decimal(0)])
        level[0] += movement["change_on_hand"]
        level[1] += movement["change_reserved"]
    levels = {}
    for key, value in records(brokers, f"{prefix}stock.levels"):
        owner, item_and_location = key.split("/", 1)
        if owner == tenant:
            level = registry.decode(value)
            seen = levels.get(item_and_location)
            if seen is None or level["version"] > seen["version"]:
                levels[item_and_location] = level
    newest = {key: [level["qty_on_hand"], level["qty_reserved"]] for key, level in levels.items()}
    assert sums == newest, "the sum of the movements and the levels differ"
    plain = {key: [format(quantity.normalize(), "f") for quantity in level] for key, level in sums.items()}
    print(json.dumps({"movements": last, "levels": plain}))


if __name__ == "__main__":
    main(*sys.argv[1:])
