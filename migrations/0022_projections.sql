-- The indexes of search: one answers, others are being built or have been replaced. How far an index is on each partition
-- stands in consumer_positions, under its name.
create table search_indexes (
    name       text primary key,
    state      text not null check (state in ('building', 'serving', 'retired')),
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now()
);
create unique index search_indexes_one_serves on search_indexes (state) where state = 'serving';
grant select on search_indexes to twh_tenant;

-- The last event of each tenant that an index reflects, and where its command stands.
create table search_progress (
    index_name text not null,
    tenant_id  uuid not null,
    sequence   bigint not null,
    partition  integer not null,
    log_offset bigint not null,
    primary key (index_name, tenant_id)
) with (fillfactor = 50);
select secure_by_tenant('search_progress');
grant select on search_progress to twh_tenant;
