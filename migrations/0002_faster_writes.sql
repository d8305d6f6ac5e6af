-- The outbox keeps a batch as one compressed value. What an earlier version left to publish must be published by it first.
do $$
begin
    if exists (select from outbox) then
        raise exception 'the outbox is not empty: let the version that wrote it publish what is left, then migrate'
            using hint = 'start the previous version and wait until "select count(*) from outbox" is 0';
    end if;
end $$;
alter table outbox
    drop column topics, drop column partitions, drop column keys, drop column headers, drop column payloads,
    add column records bytea not null;
-- It comes compressed.
alter table outbox alter column records set storage external;

-- Codes and keys are compared byte by byte, whatever the database's collation: an index look-up costs half.
alter table command_outcomes alter column idempotency_key type text collate "C";
do $$
declare
    name text;
begin
    foreach name in array array['items', 'locations', 'suppliers', 'purchase_orders', 'sales_orders', 'transfers',
                                'returns', 'adjustments', 'counts', 'reservations'] loop
        execute format('alter table %I alter column code type text collate "C", alter column status type text collate "C"', name);
    end loop;
end $$;

-- Outcomes are added by COPY, which knows no ON CONFLICT: should a command stand twice on the topic, it has two rows, and the
-- first is the one that is asked for. An index that is not unique is also the cheaper one.
alter table command_outcomes drop constraint command_outcomes_pkey;
create index command_outcomes_by_command on command_outcomes (tenant_id, command_id);
