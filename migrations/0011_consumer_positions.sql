-- How far each consumer group is on each partition of its topic. What a batch writes and where the partition moves are one
-- transaction; the epoch fences who has lost the partition without knowing it.
create table consumer_positions (
    consumer_group   text not null,
    partition        integer not null,
    kafka_cluster_id text not null,
    next_offset      bigint not null,
    epoch            bigint not null,
    owner            text not null,
    claimed_at       timestamptz not null,
    primary key (consumer_group, partition)
);

grant select on consumer_positions to twh_tenant;
