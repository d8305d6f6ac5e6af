-- What there is of an item stands with it, summed up over its locations: events say what was there before them, so nothing else
-- is needed of single levels, which the ledger has.
alter table supply_items
    add column on_hand_micro bigint not null default 0,
    add column reserved_micro bigint not null default 0;
update supply_items i
set on_hand_micro = l.on_hand_micro, reserved_micro = l.reserved_micro
from (select build, tenant_id, item_id, sum(on_hand_micro)::bigint as on_hand_micro, sum(reserved_micro)::bigint as reserved_micro
      from supply_levels group by build, tenant_id, item_id) l
where l.build = i.build and l.tenant_id = i.tenant_id and l.item_id = i.item_id;
alter table supply_items
    alter column on_hand_micro drop default,
    alter column reserved_micro drop default,
    drop column available_micro;
drop table supply_levels;
