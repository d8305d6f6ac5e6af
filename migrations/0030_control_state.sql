-- What stands in the tables of everything that is not the ledger's, as one row of JSON each: control records carry it as `kept`, and a
-- verification compares the two. What changes without a record is left out: when a key was last used, and what is sealed (sealed again
-- under a new master key, and bound to its row anyway). Other secrets are hashes of what is kept, so that one cannot be put in
-- another's place.
create function control_digest(of bytea) returns text language sql immutable strict parallel safe
    return encode(sha256(of), 'hex');

-- It runs as its owner, since what it reads is for nobody else to read; so it says itself whose rows a reader for a tenant may see.
create view control_state (tenant_id, kind, id, gone, state) with (security_barrier) as
select s.* from (
    select t.tenant_id, 'tenant', t.tenant_id, false, to_jsonb(t) from tenants t
    union all
    select k.tenant_id, 'api_key', k.key_id, false,
        to_jsonb(k) - 'last_used_at' || jsonb_build_object('key_hash', control_digest(k.key_hash))
    from api_keys k
    union all
    -- With who it is: a password or a subject at an identity provider that is another's makes a member another's too.
    select m.tenant_id, 'member', m.user_id, false, jsonb_build_object('role', m.role, 'created_at', m.created_at,
        'email', u.email, 'email_key', u.email_key, 'name', u.name,
        'password_hash', control_digest(convert_to(u.password_hash, 'UTF8')),
        'identity_provider_id', i.provider_id, 'subject', i.subject)
    from memberships m left join users u using (user_id) left join identities i using (user_id)
    union all
    select v.tenant_id, 'invitation', v.invitation_id, false,
        to_jsonb(v) || jsonb_build_object('token_hash', control_digest(v.token_hash))
    from invitations v
    union all
    select p.tenant_id, 'identity_provider', p.provider_id, p.deleted_at is not null, to_jsonb(p) - 'sealed_secret'
    from identity_providers p
    union all
    select w.tenant_id, 'webhook_subscription', w.id, w.state = 'deleted',
        to_jsonb(w) - '{secret,previous_secret,client_certificate}'::text[]
    from webhook_subscriptions w
) s (tenant_id, kind, id, gone, state)
where current_user <> 'twh_tenant' or s.tenant_id = (select current_tenant());
grant select on control_state to twh_tenant;

-- What stood before records carried it. Each gets a record that does, once, when the tables have been brought up to date.
create table control_unaccounted (
    tenant_id uuid not null,
    kind      text not null,
    id        uuid not null,
    primary key (tenant_id, kind, id)
);
select secure_by_tenant('control_unaccounted');
insert into control_unaccounted (tenant_id, kind, id) select tenant_id, kind, id from control_state where not gone;
