-- Sums of quantities have no bound: what one movement may bring is eighteen digits, and what a day or an item comes to is any number
-- of movements.
alter table supply_items
    alter column on_hand_micro type numeric,
    alter column reserved_micro type numeric;
alter table supply_days
    alter column in_micro type numeric,
    alter column out_micro type numeric;

-- Items that came down to their reorder point: noted with the batch that brought them down, until the ledger is asked to tell of it.
create table supply_crossings (
    build               bigint not null,
    partition           integer not null,
    tenant_id           uuid not null,
    item_id             uuid not null,
    sequence            bigint not null,
    available_micro     bigint not null,
    reorder_point_micro bigint not null,
    primary key (build, partition, tenant_id, item_id, sequence)
);
select secure_by_tenant('supply_crossings');
