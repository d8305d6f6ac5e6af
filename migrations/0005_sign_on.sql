-- Sign-on by a tenant's own identity provider.

create table identity_providers (
    provider_id       uuid primary key,
    tenant_id         uuid not null references tenants,
    name              text not null,
    kind              text not null check (kind in ('oidc', 'saml')),
    issuer            text not null,
    client_id         text not null,
    -- Sealed; absent where there is none, and gone with the provider.
    sealed_secret     bytea,
    secret_changed_at timestamptz,
    -- Of SAML: where requests go, and the certificates that answers are signed with.
    sso_url           text,
    certificates      text[],
    groups_claim      text not null,
    role_by_group     json not null,
    default_role      text check (default_role in ('admin', 'dev', 'read_only', 'billing')),
    enabled           boolean not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    -- Kept, because audit records and people name it; nobody signs on with it again.
    deleted_at        timestamptz
);
create index identity_providers_by_tenant on identity_providers (tenant_id, provider_id) where deleted_at is null;

-- A person that a provider vouches for is this provider's and nobody else's: an address says nothing (docs/decisions/0012).
create table identities (
    provider_id  uuid not null references identity_providers,
    subject      text collate "C" not null,
    user_id      uuid not null unique references users,
    created_at   timestamptz not null,
    last_used_at timestamptz not null,
    primary key (provider_id, subject)
);

-- An address is one person's among those who sign in with a password. Who signs on elsewhere may have the same.
alter table users drop constraint users_email_key_key;
create unique index users_by_email on users (email_key) where password_hash is not null;

-- A sign-on that was begun: it ends once, in the browser in which it began, within minutes.
create table sign_on_attempts (
    state_hash   bytea primary key,
    browser_hash bytea not null,
    provider_id  uuid not null references identity_providers,
    -- What only this process and the provider may know.
    sealed       bytea not null,
    ip           text,
    created_at   timestamptz not null,
    expires_at   timestamptz not null
);
create index sign_on_attempts_by_expiry on sign_on_attempts (expires_at);
create index sign_on_attempts_by_ip on sign_on_attempts (ip);

-- Assertions (of SAML) that were taken: none is taken twice.
create table used_assertions (
    provider_id  uuid not null references identity_providers,
    assertion_id text collate "C" not null,
    expires_at   timestamptz not null,
    primary key (provider_id, assertion_id)
);
create index used_assertions_by_expiry on used_assertions (expires_at);
