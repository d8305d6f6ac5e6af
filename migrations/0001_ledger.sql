-- The ledger and its snapshots. Quantities are whole numbers of millionths of the item's unit (column suffix _micro).

-- Control plane: who may call.
create table tenants (
    tenant_id  uuid primary key,
    name       text not null,
    created_at timestamptz not null default now()
);

create table api_keys (
    key_id     uuid primary key,
    tenant_id  uuid not null references tenants,
    key_hash   bytea not null unique,
    created_at timestamptz not null default now()
);

-- One row a partition of `commands`: how far the ledger has come. A batch moves next_offset by compare-and-set within its
-- own transaction, which makes application exactly-once; a new owner raises epoch, which fences the old one.
create table ledger_partitions (
    partition        integer primary key,
    kafka_cluster_id text not null,
    next_offset      bigint not null,
    epoch            bigint not null,
    owner            text not null,
    claimed_at       timestamptz not null
);

-- The ends of each tenant's gapless sequences and hash chains.
create table ledger_heads (
    tenant_id         uuid primary key,
    movement_sequence bigint not null,
    movement_hash     bytea not null,
    event_sequence    bigint not null,
    audit_sequence    bigint not null,
    audit_hash        bytea not null,
    recorded_at       timestamptz not null
) with (fillfactor = 50);

create table stock_movements (
    tenant_id             uuid not null,
    sequence              bigint not null,
    item_id               uuid not null,
    location_id           uuid not null,
    kind                  text not null check (kind in
        ('RECEIVE', 'SALE', 'RESERVE', 'RELEASE', 'ADJUST', 'TRANSFER_OUT', 'TRANSFER_IN', 'RETURN', 'COUNT')),
    level_version         bigint not null,
    on_hand_change_micro  bigint not null,
    reserved_change_micro bigint not null,
    on_hand_after_micro   bigint not null,
    reserved_after_micro  bigint not null,
    reference_kind        text not null,
    reference_id          uuid not null,
    reference_line        integer not null,
    reason                text,
    command_id            uuid not null,
    partition             integer not null,
    log_offset            bigint not null,
    occurred_at           timestamptz not null,
    recorded_at           timestamptz not null,
    hash                  bytea not null,
    primary key (tenant_id, sequence)
);
create index stock_movements_by_level on stock_movements (tenant_id, item_id, location_id, sequence);
create index stock_movements_counts on stock_movements (tenant_id, item_id, location_id, sequence) where kind = 'COUNT';

-- Hashes of full subtrees of each tenant's Merkle tree over its movements, every eighth level: a cache of what never changes.
create table ledger_tree (
    tenant_id uuid not null,
    level     bigint not null,
    index     bigint not null,
    hash      bytea not null,
    primary key (tenant_id, level, index)
);

create table stock_levels (
    tenant_id       uuid not null,
    item_id         uuid not null,
    location_id     uuid not null,
    on_hand_micro   bigint not null,
    reserved_micro  bigint not null,
    version         bigint not null,
    last_counted_at timestamptz,
    updated_at      timestamptz not null,
    primary key (tenant_id, item_id, location_id),
    check (reserved_micro >= 0)
) with (fillfactor = 70);

-- Every document version ever written, with who wrote it: the newest is the snapshot's, the ones before are its history.
create table audit_log (
    tenant_id       uuid not null,
    sequence        bigint not null,
    operation_index integer,
    action          text not null,
    entity_kind     text not null,
    entity_id       uuid not null,
    entity_version  bigint not null,
    document        json not null,
    actor_kind      text not null,
    actor_id        text not null,
    ip              text,
    user_agent      text,
    request_id      text not null,
    command_id      uuid not null,
    recorded_at     timestamptz not null,
    hash            bytea not null,
    primary key (tenant_id, sequence)
);
create index audit_log_by_entity on audit_log (tenant_id, entity_id, entity_version);

-- What became of each command, and under which Idempotency-Key. A repeat has its own row, without a key.
create table command_outcomes (
    tenant_id       uuid not null,
    command_id      uuid not null,
    idempotency_key text,
    fingerprint     text not null,
    replay_of       uuid,
    accepted        boolean not null,
    code            text,
    message         text,
    details         json,
    first_audit     bigint,
    last_audit      bigint,
    partition       integer not null,
    log_offset      bigint not null,
    recorded_at     timestamptz not null,
    primary key (tenant_id, command_id)
);
create unique index command_outcomes_by_key on command_outcomes (tenant_id, idempotency_key) where idempotency_key is not null;
-- Rows come in time order: a block-range index finds the old ones to forget at next to no cost.
create index command_outcomes_by_time on command_outcomes using brin (recorded_at);

-- What was committed and is not yet known to be on Kafka: one row a batch, its records as parallel arrays in order,
-- deleted once published.
create table outbox (
    partition   integer not null,
    next_offset bigint not null,
    topics      text[] not null,
    partitions  integer[] not null,
    keys        text[] not null,
    headers     text[] not null,
    payloads    bytea[] not null,
    primary key (partition, next_offset)
);

-- Documents: one table a kind, the same shape for all. `document` is the public resource, byte for byte.
do $$
declare
    name text;
begin
    foreach name in array array['items', 'locations', 'suppliers', 'purchase_orders', 'sales_orders', 'transfers',
                                'returns', 'adjustments', 'counts', 'reservations'] loop
        execute format('create table %I (
            tenant_id  uuid not null,
            id         uuid not null,
            code       text,
            status     text,
            expires_at timestamptz,
            version    bigint not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            document   json not null,
            primary key (tenant_id, id)
        ) with (fillfactor = 80)', name);
        execute format('create unique index %I on %I (tenant_id, code) where code is not null', name || '_by_code', name);
        execute format('create index %I on %I (tenant_id, status, id) where status is not null', name || '_by_status', name);
    end loop;
end $$;
create index reservations_by_expiry on reservations (expires_at) where expires_at is not null;
create index items_by_name on items (tenant_id, (lower(document ->> 'name')) text_pattern_ops);

create table item_barcodes (
    tenant_id uuid not null,
    barcode   text not null,
    item_id   uuid not null,
    primary key (tenant_id, barcode)
);

-- History is only ever added to: a mistake is a new movement that corrects it.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: the ledger is append-only', tg_op, tg_table_name using errcode = 'restrict_violation';
end $$;
create trigger append_only before update or delete or truncate on stock_movements
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on audit_log
    for each statement execute function refuse_change();
