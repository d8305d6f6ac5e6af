-- What serves a tenant sees that tenant's rows, whatever its queries say. The role is taken by the connections of the read
-- side (docs/decisions/0013); the owner, who writes for all tenants, is not held by it.

-- Roles are of the whole cluster: another database may have made it, or be about to.
do $$ begin
    if not exists (select from pg_roles where rolname = 'twh_tenant') then
        create role twh_tenant nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
        raise exception 'the role twh_tenant is missing, and % may not make it', current_user
            using hint = format('as a superuser: create role twh_tenant nologin; grant twh_tenant to %I', current_user);
end $$;
do $$ begin
    if not pg_has_role(current_user, 'twh_tenant', 'member') then
        execute format('grant twh_tenant to %I', current_user);
    end if;
exception when insufficient_privilege then
    raise exception '% is not a member of the role twh_tenant', current_user
        using hint = format('as a superuser: grant twh_tenant to %I', current_user);
end $$;

-- The tenant whose request it is; null where none is said, which is equal to nothing.
create function current_tenant() returns uuid language sql stable
    return nullif(current_setting('twh.tenant_id', true), '')::uuid;

-- Gives a table with a tenant_id its policy; every later table of a tenant's calls it too.
create function secure_by_tenant(of regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', of);
    execute format(
        'create policy of_tenant on %s to twh_tenant
             using (tenant_id = (select current_tenant())) with check (tenant_id = (select current_tenant()))', of);
end $$;

select secure_by_tenant(c.oid::regclass)
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and not c.relispartition;

-- What is read for a tenant, and nothing more: never is anything written by this role.
grant select on ledger_partitions, ledger_heads, ledger_tree, stock_movements, stock_levels, audit_log, command_outcomes,
    item_barcodes, items, locations, suppliers, purchase_orders, sales_orders, transfers, returns, adjustments, counts,
    reservations, control_audit, control_audit_heads to twh_tenant;
