-- Tenants whose events lead to more deliveries than a turn of their partition has room for. Their events are kept meanwhile, and
-- queued by a backlog of the tenant's own.
create table webhook_backlogs (
    tenant_id       uuid primary key,
    -- All is queued through this event, and of the next one through this subscription.
    at_sequence     bigint not null,
    at_subscription uuid
);

select secure_by_tenant('webhook_backlogs');
