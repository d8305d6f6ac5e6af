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
