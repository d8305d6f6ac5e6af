-- The last record that was read of each partition: its offset, and a hash over its key, time and value. A log that lost its end
-- and grew again has another record there. Null where it is not known: before the first batch, and after an offset set by hand.
alter table ledger_partitions add column last_offset bigint, add column last_digest bytea;
alter table consumer_positions add column last_offset bigint, add column last_digest bytea;

-- Why a partition of commands stands until a person has looked. A halt that was cleared stays, with the offset that was accepted.
create table ledger_halts (
    id              bigint generated always as identity primary key,
    partition       integer not null,
    since           timestamptz not null default now(),
    why             text not null,
    expected        text not null,
    found           text not null,
    cleared_at      timestamptz,
    accepted_offset bigint
);

-- The halt that is not cleared; while there is one, nobody claims the partition.
alter table ledger_partitions add column halt bigint references ledger_halts;
