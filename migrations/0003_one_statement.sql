-- A batch is written by one statement. These stop it, and with it the batch, where what it takes for granted is not so.

create function expect_moved(expected integer[], moved integer[]) returns void language plpgsql as $$
declare
    fenced integer := (select p from unnest(expected) as p where p <> all (moved) limit 1);
begin
    if fenced is not null then
        raise exception 'partition % has another writer', fenced using errcode = 'TWH01', detail = fenced::text;
    end if;
end $$;

create function expect_changed(what text, expected bigint, changed bigint) returns void language plpgsql as $$
begin
    if changed <> expected then
        raise exception '% of % % are there to be changed', changed, expected, what using errcode = 'TWH02';
    end if;
end $$;
