-- Partitions that stand and go on by themselves once the cause is gone: a record that a store refuses, a log of another cluster, events
-- that are lost. Written down so that they are seen, and cleared by who decides to go on otherwise. Of the ledger's, those that mean
-- that acknowledged commands are lost are in ledger_halts; ids are of one sequence, so that one names a halt.
create table standing_halts (
    id             bigint not null default nextval(pg_get_serial_sequence('ledger_halts', 'id')) unique,
    consumer_group text not null,
    partition      integer not null,
    since          timestamptz not null default now(),
    why            text not null,
    -- What the partition does not get past; null where it is not even claimed.
    at_offset      bigint,
    primary key (consumer_group, partition)
);

-- Past the highest offset of a partition of commands that a client was told of and that the ledger had not applied: the log must hold it,
-- or acknowledged commands are lost. Written every second by the processes that take commands; a halt that a person clears takes it away.
create table ledger_acknowledged (
    kafka_cluster_id text not null,
    partition        integer not null,
    next_offset      bigint not null,
    primary key (kafka_cluster_id, partition)
);
