-- Events that a build leaves out, since its store refuses them: readers of the tenant are told how many.
create table projection_left_out (
    build      bigint not null,
    tenant_id  uuid not null,
    sequence   bigint not null,
    partition  integer not null,
    log_offset bigint not null,
    reason     text not null,
    at         timestamptz not null default now(),
    primary key (build, tenant_id, sequence)
);
select secure_by_tenant('projection_left_out');
grant select on projection_left_out to twh_tenant;
