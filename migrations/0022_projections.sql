-- The builds of read models: of each, one answers, others are being built or have been replaced. How far a build is on each
-- partition stands in consumer_positions, under its name.
create table projection_builds (
    number     bigint generated always as identity primary key,
    projection text not null check (projection in ('search', 'supply')),
    name       text not null unique,
    state      text not null check (state in ('building', 'serving', 'retired')),
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now()
);
create unique index projection_builds_one_serves on projection_builds (projection) where state = 'serving';
grant select on projection_builds to twh_tenant;

-- The last event of each tenant that a build reflects, and where its command stands.
create table projection_progress (
    build      bigint not null,
    tenant_id  uuid not null,
    sequence   bigint not null,
    partition  integer not null,
    log_offset bigint not null,
    primary key (build, tenant_id)
) with (fillfactor = 50);
select secure_by_tenant('projection_progress');
grant select on projection_progress to twh_tenant;
