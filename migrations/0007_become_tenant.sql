-- From PostgreSQL 16 on, who makes a role is its member, and may still not become it: a grant has an option SET for that, and one
-- that was given without it is changed only by naming it. PostgreSQL 15 knows no such option: a member may become the role. Where
-- migration 0006 made the role under 16, the read side could not have taken it.
do $$
declare
    has_option constant boolean := current_setting('server_version_num')::integer >= 160000;
    allowing   constant text := format('grant twh_tenant to %I', current_user) || case when has_option then ' with set true' else '' end;
begin
    if not pg_has_role(current_user, 'twh_tenant', case when has_option then 'set' else 'member' end) then
        execute allowing;
    end if;
exception
    -- Roles are of the whole cluster: another database may be granting it at this moment.
    when unique_violation then null;
    when insufficient_privilege then
        raise exception '% may not become the role twh_tenant', current_user using hint = 'as a superuser: ' || allowing;
end $$;
