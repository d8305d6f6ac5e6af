-- A word that stands somewhere as it was typed is looked for so first: likeness is what a search works longest for, and who types a
-- word right means it. Only one that does not is a misspelling at once.

drop function search_meanings(uuid, text[], integer);

-- The words that each word of a query may be as it was typed, and how near that is: itself, a beginning, in scripts without spaces a
-- part.
create function search_as_typed(tenant uuid, tokens text[]) returns table (token bigint, word text, weight real)
language sql stable as $$
    select t.n, w.word, max(w.weight)
    from unnest(tokens) with ordinality t (text, n)
    cross join lateral (
        select s.word, 1.0::real as weight from search_words s where s.tenant_id = tenant and s.word = t.text
        union all
        (select s.word, 0.9::real from search_words s
         where char_length(t.text) >= 2 and s.tenant_id = tenant and s.word > t.text and s.word < t.text || U&'\+10FFFF'
         order by s.word limit 200)
        union all
        (select s.word, 0.7::real from search_words s
         where t.text ~ '[^\u0001-\u007f]' and char_length(t.text) >= 2 and s.tenant_id = tenant
           and s.word like '%' || regexp_replace(t.text, '([\\%_])', '\\\1', 'g') || '%' limit 200)
    ) w
    group by t.n, w.word
$$;

-- The words that each word of a query may be a misspelling of, how near that is, and whether it is one mistake: two letters that
-- changed places are one, one in the first letter counts as two. A word with a digit in it is a size or a code, where another digit is
-- another thing: it is never taken for a misspelling.
create function search_misspellings(tenant uuid, tokens text[])
returns table (token bigint, word text, weight real, is_near boolean)
language sql stable as $$
    select t.n, n.word, case when n.distance = 1 then 0.6 else 0.4 end::real,
        n.distance = 1 and left(n.word, 1) = left(t.text, 1)
    from unnest(tokens) with ordinality t (text, n)
    cross join lateral (
        select c.word, c.distance
        from (select s.word, case when d.distance = 2 and search_letters(s.word) = search_letters(t.text) then 1 else d.distance end as distance
              from (select l.word from search_words l where l.tenant_id = tenant and l.word % t.text
                    union
                    select l.word from search_words l
                    where l.tenant_id = tenant and l.word >= left(t.text, 1) and l.word < left(t.text, 1) || U&'\+10FFFF') s
              cross join lateral (select levenshtein_less_equal(left(s.word, 63), left(t.text, 63), 2) as distance) d
              where char_length(t.text) between 3 and 63 and t.text !~ '[0-9]' and s.word <> t.text
                and char_length(s.word) between char_length(t.text) - 2 and char_length(t.text) + 2 and d.distance <= 2) c
        where c.distance <= case when char_length(t.text) >= 8 then 2 else 1 end
        order by c.distance, c.word limit 50) n
$$;
revoke execute on function search_as_typed(uuid, text[]), search_misspellings(uuid, text[]) from public;

-- The items of the tenant that the connection is of, whatever the query says, that a query finds: codes that are it, in this
-- case (5) or another (4), or begin like it (3), then names and descriptions (1). Words with as few mistakes as can be: first each as
-- it was typed, or where it means nothing so, with one; then all with one; then all with two. It runs as its owner, since row-level
-- security lets no comparison of likeness choose where an index is looked at; so it takes its tenant from the connection and nothing else.
create or replace function search_items(query text, matches_max integer) returns table (item_id uuid, tier integer, score real)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    tenant uuid := current_tenant();
    code_asked text := search_text(btrim(query));
    tokens text[] := search_words_of(query);
    known bigint[]; meant text[]; weights real[];
    near boolean[]; -- Which of these are meant with fewer than two mistakes.
    as_typed bigint[]; -- The words that mean something as they were typed.
    tokens_known integer; tokens_near integer;
    any_code boolean;
    misspelt boolean;
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
    any_code := found;
    select coalesce(array_agg(m.token), '{}'), array_agg(m.word), array_agg(m.weight)
    into known, meant, weights
    from search_as_typed(tenant, tokens) m;
    as_typed := known;
    near := array_fill(true, array[cardinality(known)]);
    -- First the misspellings of those that mean nothing as they were typed, then those of the others too.
    foreach misspelt in array array[true, false] loop
        select known || array_agg(m.token), meant || array_agg(m.word), weights || array_agg(m.weight), near || array_agg(m.is_near)
        into known, meant, weights, near
        from search_misspellings(tenant,
            array(select case when (n = any (as_typed)) <> misspelt then text end from unnest(tokens) with ordinality t (text, n))) m;
        select count(distinct m.token), count(distinct m.token) filter (where m.is_near)
        into tokens_known, tokens_near
        from unnest(known, near) m (token, is_near);
        if tokens_near > 0 and tokens_near = cardinality(tokens) then
            return query
                select s.item_id, 1, s.score
                from (select array_agg(m.token) as token, array_agg(m.word) as word, array_agg(m.weight) as weight
                      from unnest(known, meant, weights, near) m (token, word, weight, near) where m.near) nearest
                cross join lateral search_by_words(tenant, nearest.token, nearest.word, nearest.weight, matches_max) s;
            if found then
                return;
            end if;
        end if;
        if any_code then
            return;
        end if;
    end loop;
    -- A query of which most words mean nothing here is not answered with the rest.
    if tokens_known = 0 or tokens_known * 2 < cardinality(tokens) then
        return;
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
