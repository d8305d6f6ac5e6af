-- What the words of a query may mean is looked up once. First the meanings with fewer than two mistakes are searched for; those
-- with two are added only where that finds nothing, and only where there are any. A mistake in the first letter counts as two.
create or replace function search_items(query text, matches_max integer) returns table (item_id uuid, tier integer, score real)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    tenant uuid := current_tenant();
    code_asked text := search_text(btrim(query));
    tokens text[] := search_words_of(query);
    known bigint[]; meant text[]; weights real[];
    near boolean[]; -- Which of these are meant with fewer than two mistakes.
    tokens_known integer; tokens_near integer;
    left_out bigint;
begin
    if tenant is null or code_asked = '' then
        return;
    end if;
    return query
        select i.id, case when i.code = btrim(query) then 5 else 4 end, 1::real
        from items i where i.tenant_id = tenant and i.search_code = code_asked
        union all
        select b.item_id, 4, 1::real from item_barcodes b where b.tenant_id = tenant and b.barcode = btrim(query)
        union all
        (select i.id, 3, (1.0 / char_length(i.search_code))::real from items i
         where i.tenant_id = tenant and i.search_code > code_asked and i.search_code < (code_asked || U&'\+10FFFF') limit matches_max)
        union all
        (select b.item_id, 3, (1.0 / char_length(b.barcode))::real from item_barcodes b
         where b.tenant_id = tenant and b.barcode ~>~ btrim(query) and b.barcode ~<~ (btrim(query) || U&'\+10FFFF') limit matches_max);
    -- One mistake weighs 0.6, two weigh 0.4.
    select array_agg(m.token), array_agg(m.word), array_agg(m.weight), array_agg(m.near),
        count(distinct m.token), count(distinct m.token) filter (where m.near)
    into known, meant, weights, near, tokens_known, tokens_near
    from (select *, weight > 0.6::real or weight = 0.6::real and left(word, 1) = left(tokens[token], 1) as near
          from search_meanings(tenant, tokens, 2)) m;
    -- A query of which most words mean nothing here is not answered with the rest.
    if tokens_known = 0 or tokens_known * 2 < cardinality(tokens) then
        return;
    end if;
    if tokens_near = cardinality(tokens) then
        return query
            select s.item_id, 1, s.score
            from (select array_agg(m.token) as token, array_agg(m.word) as word, array_agg(m.weight) as weight
                  from unnest(known, meant, weights, near) m (token, word, weight, near) where m.near) nearest
            cross join lateral search_by_words(tenant, nearest.token, nearest.word, nearest.weight, matches_max) s;
        if found then
            return;
        end if;
    end if;
    if tokens_near < cardinality(tokens) or not (true = all (near)) then
        return query select s.item_id, 1, s.score from search_by_words(tenant, known, meant, weights, matches_max) s;
        if found then
            return;
        end if;
    end if;
    if tokens_known < 2 then
        return;
    end if;
    -- Nothing has all of the words: each in turn may be missing.
    for left_out in select distinct k from unnest(known) k loop
        return query
            select s.item_id, 1, s.score
            from (select array_agg(m.token) as token, array_agg(m.word) as word, array_agg(m.weight) as weight
                  from unnest(known, meant, weights) m (token, word, weight) where m.token <> left_out) rest
            cross join lateral search_by_words(tenant, rest.token, rest.word, rest.weight, matches_max / tokens_known) s;
    end loop;
end $$;
