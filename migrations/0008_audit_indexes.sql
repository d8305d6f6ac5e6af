-- What GET /v1/audit can ask of the account that is not the ledger's. The ledger's own (audit_log) has none of these: each would cost
-- every write, so it is bounded by time, or looked through a stretch at a time.
create index control_audit_by_action on control_audit (tenant_id, action, sequence);
create index control_audit_by_entity on control_audit (tenant_id, entity_id, sequence);
create index control_audit_by_kind on control_audit (tenant_id, entity_kind, sequence);
create index control_audit_by_actor on control_audit (tenant_id, actor_id, sequence);
create index control_audit_by_request on control_audit (tenant_id, request_id, sequence);
