-- What there is of each item, what comes and what goes: made of domain.events alone. Rows are a build's, as projection_builds
-- has them, and only the one that holds a partition writes those of its tenants.

-- Items that hold stock, with what can be promised of them over all locations.
create table supply_items (
    build               bigint not null,
    tenant_id           uuid not null,
    item_id             uuid not null,
    sku                 text not null,
    name                text,
    reorder_point_micro bigint,
    available_micro     bigint not null,
    low_since           timestamptz,
    primary key (build, tenant_id, item_id)
) with (fillfactor = 70);
create index supply_items_low on supply_items (build, tenant_id, item_id) where low_since is not null;

create table supply_levels (
    build          bigint not null,
    tenant_id      uuid not null,
    item_id        uuid not null,
    location_id    uuid not null,
    on_hand_micro  bigint not null,
    reserved_micro bigint not null,
    primary key (build, tenant_id, item_id, location_id)
) with (fillfactor = 70);

-- What came and went on a day (UTC, when it happened).
create table supply_days (
    build       bigint not null,
    tenant_id   uuid not null,
    item_id     uuid not null,
    location_id uuid not null,
    day         date not null,
    in_micro    bigint not null,
    out_micro   bigint not null,
    primary key (build, tenant_id, item_id, location_id, day)
) with (fillfactor = 70);

-- Lines of which something is still to come, to arrive or to go.
create table supply_open_lines (
    build             bigint not null,
    tenant_id         uuid not null,
    document_id       uuid not null,
    line              integer not null,
    document_kind     text not null check (document_kind in ('purchase_order', 'sales_order', 'transfer')),
    number            text not null,
    item_id           uuid not null,
    sku               text not null,
    location_id       uuid not null,
    quantity_micro    bigint not null,
    -- What of it is neither shipped nor reserved.
    backordered_micro bigint not null,
    since             timestamptz not null,
    primary key (build, tenant_id, document_id, line)
);
create index supply_open_lines_item on supply_open_lines (build, tenant_id, item_id, document_id, line);

-- How long lines of purchase orders took.
create table supply_receipts (
    build             bigint not null,
    tenant_id         uuid not null,
    order_id          uuid not null,
    line              integer not null,
    supplier_id       uuid not null,
    item_id           uuid not null,
    ordered_at        timestamptz not null,
    first_received_at timestamptz,
    received_at       timestamptz,
    -- When the order was closed or cancelled: what has not come by then is not awaited.
    closed_at         timestamptz,
    primary key (build, tenant_id, order_id, line)
);
create index supply_receipts_supplier on supply_receipts (build, tenant_id, supplier_id, item_id);

select secure_by_tenant(name::regclass) from unnest(array['supply_items', 'supply_levels', 'supply_days', 'supply_open_lines',
    'supply_receipts']) name;
grant select on supply_items, supply_levels, supply_days, supply_open_lines, supply_receipts to twh_tenant;
