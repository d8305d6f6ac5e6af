-- Who may call, and what they did beside the ledger.

alter table tenants
    add column plan text not null default 'free' check (plan in ('free', 'growth', 'scale', 'enterprise')),
    add column environment text not null default 'live' check (environment in ('live', 'sandbox')),
    -- The tenant whose developers try things out here.
    add column sandbox_of uuid unique references tenants;

create table users (
    user_id       uuid primary key,
    email         text not null,
    -- In lower case: an address is one person's however it is typed.
    email_key     text collate "C" not null unique,
    name          text not null,
    -- PHC string of argon2id; absent for who signs in elsewhere.
    password_hash text,
    created_at    timestamptz not null,
    updated_at    timestamptz not null
);

create table memberships (
    user_id    uuid not null references users,
    tenant_id  uuid not null references tenants,
    role       text not null check (role in ('admin', 'dev', 'read_only', 'billing')),
    created_at timestamptz not null,
    primary key (user_id, tenant_id)
);
create index memberships_by_tenant on memberships (tenant_id);

-- A sign-in: access tokens name it, and end with it.
create table sessions (
    session_id uuid primary key,
    user_id    uuid not null references users,
    tenant_id  uuid not null references tenants,
    ip         text,
    user_agent text,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at   timestamptz,
    ended_why  text
);
create index sessions_by_user on sessions (user_id) where ended_at is null;

-- A refresh token works once. One that comes again was stolen, from the client or by it: its session ends.
create table refresh_tokens (
    token_hash bytea primary key,
    session_id uuid not null references sessions,
    issued_at  timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);
create index refresh_tokens_by_session on refresh_tokens (session_id);

create table invitations (
    invitation_id uuid primary key,
    tenant_id     uuid not null references tenants,
    email         text not null,
    email_key     text collate "C" not null,
    role          text not null check (role in ('admin', 'dev', 'read_only', 'billing')),
    token_hash    bytea not null unique,
    invited_by    uuid not null references users,
    created_at    timestamptz not null,
    expires_at    timestamptz not null,
    accepted_at   timestamptz,
    revoked_at    timestamptz
);
create index invitations_by_tenant on invitations (tenant_id, invitation_id);

create table password_resets (
    token_hash bytea primary key,
    user_id    uuid not null references users,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);
create index password_resets_by_user on password_resets (user_id);

-- A key is kept as a keyed hash. What was kept before without a key of the server's cannot be known again.
truncate api_keys;
alter table api_keys
    add column name text not null,
    -- The first characters, so that people can tell keys apart.
    add column hint text not null,
    add column role text not null check (role in ('admin', 'dev', 'read_only', 'billing')),
    -- Less than the role allows; absent for all of it.
    add column scopes text[],
    add column ip_allowed text[],
    add column created_by text not null,
    add column expires_at timestamptz,
    add column last_used_at timestamptz,
    add column revoked_at timestamptz,
    -- The key that took its place.
    add column rotated_to uuid references api_keys;
create index api_keys_by_tenant on api_keys (tenant_id, key_id);

-- Keys that access tokens are signed with; the private halves are sealed.
create table signing_keys (
    kid            text primary key,
    public_key     bytea not null,
    sealed_private bytea not null,
    created_at     timestamptz not null,
    -- Signs until then, and is published for as long as its last token lives.
    retired_at     timestamptz
);

-- The account of changes that are not the ledger's: one chain a tenant, as the ledger's own.
create table control_audit_heads (
    tenant_id uuid primary key references tenants,
    sequence  bigint not null,
    hash      bytea not null
);
create table control_audit (
    tenant_id   uuid not null references tenants,
    sequence    bigint not null,
    action      text not null,
    entity_kind text not null,
    entity_id   uuid not null,
    old         json,
    new         json,
    actor_kind  text not null,
    actor_id    text not null,
    ip          text,
    user_agent  text,
    request_id  text not null,
    recorded_at timestamptz not null,
    hash        bytea not null,
    primary key (tenant_id, sequence)
);
create trigger append_only before update or delete or truncate on control_audit
    for each statement execute function refuse_change();
