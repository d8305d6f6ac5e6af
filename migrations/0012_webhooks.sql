-- Webhooks: who wants to hear of what, the events that are kept for them, and what became of each delivery.

-- The tenants whose events are kept: those with a subscription, and those that listen.
create table webhook_tenants (
    tenant_id       uuid primary key,
    -- Rises with every change that who sends must hear of.
    version         bigint not null,
    changed_at      timestamptz not null,
    listening_until timestamptz
);
create index webhook_tenants_changed on webhook_tenants (changed_at);

create table webhook_subscriptions (
    tenant_id          uuid not null,
    id                 uuid primary key,
    url                text not null,
    description        text,
    -- Patterns of event types; items and locations to which it is narrowed, empty for all.
    event_types        text[] not null,
    item_ids           uuid[] not null,
    location_ids       uuid[] not null,
    ordering           text not null check (ordering in ('none', 'key')),
    concurrency_max    integer not null check (concurrency_max > 0),
    rate_per_second    integer check (rate_per_second > 0),
    timeout_ms         integer not null check (timeout_ms > 0),
    state              text not null check (state in ('active', 'quarantined', 'disabled', 'deleted')),
    state_reason       text,
    state_since        timestamptz not null,
    -- Sealed, as is the certificate with its key.
    secret             bytea not null,
    secret_hint        text not null,
    previous_secret    bytea,
    previous_until     timestamptz,
    client_certificate bytea,
    has_client_certificate boolean not null,
    created_by         text not null,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    version            bigint not null
);
create index webhook_subscriptions_by_tenant on webhook_subscriptions (tenant_id, id);

-- Events as they are sent. Kept for a time, for retries and replays.
create table webhook_events (
    tenant_id   uuid not null,
    id          uuid not null,
    -- Its place among the tenant's events; absent for those about webhooks themselves.
    sequence    bigint,
    event_type  text not null,
    -- The command behind it.
    partition   integer,
    "offset"    bigint,
    item_ids    uuid[] not null,
    location_ids uuid[] not null,
    -- What its order is kept by: hashes of its document and of each item at a location.
    ordering_keys bigint[] not null,
    recorded_at timestamptz not null,
    body        text not null,
    primary key (tenant_id, id)
);
create unique index webhook_events_in_order on webhook_events (tenant_id, sequence);
create index webhook_events_by_age on webhook_events using brin (recorded_at);

create table webhook_deliveries (
    tenant_id       uuid not null,
    subscription_id uuid not null,
    -- By the event's time and sequence, or by when it was queued once more (version 7), so that the oldest comes first.
    id              uuid not null,
    event_id        uuid not null,
    replay_id       uuid,
    state           text not null check (state in ('pending', 'delivered', 'dead_lettered', 'replayed', 'cancelled')),
    next_attempt_at timestamptz not null,
    created_at      timestamptz not null,
    finished_at     timestamptz,
    -- Each attempt as an object, oldest first.
    attempts        jsonb not null default '[]',
    primary key (subscription_id, id)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05);
-- What is to be sent: by when, and where order is kept, from the oldest on.
create index webhook_deliveries_due on webhook_deliveries (subscription_id, next_attempt_at) where state = 'pending';
create index webhook_deliveries_in_order on webhook_deliveries (subscription_id, id) where state = 'pending';
create index webhook_deliveries_dead on webhook_deliveries (subscription_id, id) where state = 'dead_lettered';
create index webhook_deliveries_by_age on webhook_deliveries using brin (created_at);
create index webhook_deliveries_of_replay on webhook_deliveries (replay_id) where state = 'pending' and replay_id is not null;

create table webhook_replays (
    tenant_id       uuid not null,
    id              uuid primary key,
    subscription_id uuid not null,
    source          text not null check (source in ('events', 'dead_letters')),
    -- Events by their sequence: after the first, through the last. Dead letters by delivery: through the last.
    first_sequence  bigint not null,
    last_sequence   bigint not null,
    last_delivery   uuid,
    -- How far it is.
    at_sequence     bigint not null,
    at_delivery     uuid,
    state           text not null check (state in ('running', 'finished', 'cancelled')),
    events          bigint not null,
    made            bigint not null,
    created_by      text not null,
    created_at      timestamptz not null,
    finished_at     timestamptz
);
create index webhook_replays_by_subscription on webhook_replays (tenant_id, subscription_id, id);
create index webhook_replays_running on webhook_replays (tenant_id) where state = 'running';

select secure_by_tenant(name::regclass) from unnest(array['webhook_tenants', 'webhook_subscriptions', 'webhook_events',
    'webhook_deliveries', 'webhook_replays']) name;

grant select on webhook_tenants, webhook_events, webhook_deliveries, webhook_replays to twh_tenant;
-- All but what is sealed.
grant select (tenant_id, id, url, description, event_types, item_ids, location_ids, ordering, concurrency_max, rate_per_second,
    timeout_ms, state, state_reason, state_since, secret_hint, previous_until, has_client_certificate, created_by, created_at,
    updated_at, version)
    on webhook_subscriptions to twh_tenant;
