-- Words with two mistakes are looked for only where nothing is found with fewer: among thousands of long words many are two
-- letters from another.

drop function search_meanings(uuid, text[]);

-- What each word of a query may mean with at most so many mistakes, and how near that is: itself, a beginning, a misspelling. A
-- word with a digit in it is a size or a code, where another digit is another thing: it is never taken for a misspelling.
create function search_meanings(tenant uuid, tokens text[], mistakes_max integer) returns table (token bigint, word text, weight real)
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
        union all
        (select n.word, case when n.distance = 1 then 0.6 else 0.4 end::real
         from (select s.word, case when d.distance = 2 and search_letters(s.word) = search_letters(t.text) then 1 else d.distance end as distance
               from (select l.word from search_words l where l.tenant_id = tenant and l.word % t.text
                     union
                     select l.word from search_words l
                     where l.tenant_id = tenant and l.word >= left(t.text, 1) and l.word < left(t.text, 1) || U&'\+10FFFF') s
               cross join lateral (select levenshtein_less_equal(left(s.word, 63), left(t.text, 63), 2) as distance) d
               where char_length(t.text) between 3 and 63 and t.text !~ '[0-9]'
                 and char_length(s.word) between char_length(t.text) - 2 and char_length(t.text) + 2 and d.distance <= 2) n
         where n.distance <= least(mistakes_max, case when char_length(t.text) >= 8 then 2 else 1 end)
         order by n.distance, n.word limit 50)
    ) w
    group by t.n, w.word
$$;

-- The items of the tenant that the connection is of, whatever the query says, that a query finds: codes that are it, in this
-- case (5) or another (4), or begin like it (3), then names and descriptions (1). It runs as its owner, since row-level security
-- lets no comparison of likeness choose where an index is looked at; so it takes its tenant from the connection and nothing else.
create or replace function search_items(query text, matches_max integer) returns table (item_id uuid, tier integer, score real)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    tenant uuid := current_tenant();
    code_asked text := search_text(btrim(query));
    tokens text[] := search_words_of(query);
    known bigint[]; meant text[]; weights real[];
    left_out bigint;
    tokens_known integer;
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
    for mistakes_max in 1..2 loop
        select array_agg(m.token), array_agg(m.word), array_agg(m.weight), count(distinct m.token)
        into known, meant, weights, tokens_known
        from search_meanings(tenant, tokens, mistakes_max) m;
        -- A query of which most words mean nothing here is not answered with the rest.
        if mistakes_max = 2 and (tokens_known = 0 or tokens_known * 2 < cardinality(tokens)) then
            return;
        end if;
        if tokens_known > 0 and (mistakes_max = 2 or tokens_known = cardinality(tokens)) then
            return query select s.item_id, 1, s.score from search_by_words(tenant, known, meant, weights, matches_max) s;
            if found then
                return;
            end if;
        end if;
    end loop;
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
revoke execute on function search_meanings(uuid, text[], integer) from public;
