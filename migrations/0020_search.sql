-- Search over the catalogue, kept by the ledger's own transaction: what is found is never behind what was written.
--
-- Words are compared without case, accents and width. The words of all names stand once in search_words: a misspelt word is
-- looked up there, among thousands, and what it may have meant is looked up in the items, among millions.

create extension if not exists unaccent;
create extension if not exists pg_trgm;
create extension if not exists btree_gin;
create extension if not exists fuzzystrmatch;

-- A text as it is compared: compatible forms made one, marks dropped, in lower case.
create function search_text(value text) returns text language sql immutable strict parallel safe as $$
    select lower(public.unaccent('public.unaccent'::regdictionary,
        normalize(regexp_replace(normalize(left(value, 20000), nfkd), '[\u0300-\u036f]', '', 'g'), nfkc)) collate "und-x-icu")
$$;

-- The words of a text, each once, at most 64 characters of each.
create function search_words_of(value text) returns text[] language sql immutable parallel safe as $$
    select coalesce(array_agg(distinct left(word, 64) collate "C"), '{}')
    from regexp_split_to_table(public.search_text(coalesce(value, '')) collate "und-x-icu",
        '[[:space:][:punct:][:cntrl:]$+<=>^`|~´¨©®°×÷™€£¥]+') as word
    where word <> ''
$$;

alter table items
    add column search_code text collate "C" generated always as (search_text(code)) stored,
    add column search_name text[] generated always as (search_words_of(document ->> 'name')) stored,
    add column search_all text[] generated always as
        (search_words_of(coalesce(document ->> 'name', '') || ' ' || coalesce(document ->> 'description', ''))) stored;
create index items_by_search_code on items (tenant_id, search_code);
create index items_by_search_words on items using gin (tenant_id, search_all) with (fastupdate = off);
create index items_by_category on items (tenant_id, (document -> 'metadata' ->> 'category'))
    where document -> 'metadata' ->> 'category' is not null;
create index item_barcodes_by_prefix on item_barcodes (tenant_id, barcode text_pattern_ops);

-- Every word that ever stood in a name or description. One that no longer does finds nothing.
create table search_words (
    tenant_id uuid not null,
    word      text collate "C" not null,
    primary key (tenant_id, word)
);
create index search_words_by_likeness on search_words using gin (tenant_id, word gin_trgm_ops) with (fastupdate = off);
select secure_by_tenant('search_words');
grant select on search_words to twh_tenant;

create function keep_search_words() returns trigger language plpgsql as $$
begin
    insert into search_words (tenant_id, word)
    select distinct c.tenant_id, w.word from changed c cross join lateral unnest(c.search_all) w (word)
    on conflict do nothing;
    return null;
end $$;
create trigger search_words_of_new after insert on items
    referencing new table as changed for each statement execute function keep_search_words();
create trigger search_words_of_changed after update on items
    referencing new table as changed for each statement execute function keep_search_words();
insert into search_words (tenant_id, word)
select distinct i.tenant_id, w.word from items i cross join lateral unnest(i.search_all) w (word);

-- The letters of a word in order: two letters that changed places are one mistake, not two.
create function search_letters(word text) returns text language sql immutable strict parallel safe as $$
    select string_agg(letter, '' order by letter) from regexp_split_to_table(word, '') as letter
$$;

-- What each word of a query may mean, and how near that is: itself, a beginning, a misspelling. A word with a digit in it is a
-- size or a code, where another digit is another thing: it is never taken for a misspelling.
create function search_meanings(tenant uuid, tokens text[]) returns table (token bigint, word text, weight real)
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
         where n.distance <= case when char_length(t.text) >= 8 then 2 else 1 end
         order by n.distance, n.word limit 50)
    ) w
    group by t.n, w.word
$$;

-- The items with at least one meaning of each of these words, and how well they meet them: the name counts double, and a short
-- name more than a long one.
create function search_by_words(tenant uuid, token bigint[], word text[], weight real[], matches_max integer)
returns table (item_id uuid, score real) language plpgsql stable as $$
declare
    conditions text;
begin
    select string_agg(format('i.search_all && %L::text[]', meant.words), ' and ')
    into conditions
    from (select array_agg(m.word) as words from unnest(token, word) m (token, word) group by m.token) meant;
    return query execute format(
        'select i.id, (select sum(best.weight)::real from (
             select max(m.weight * case when m.word = any (i.search_name) then 1 else 0.5 end) as weight
             from unnest($2, $3, $4) m (token, word, weight) where m.word = any (i.search_all) group by m.token) best)
             * (1 + 1.0 / (2 + cardinality(i.search_name)))::real
         from items i where i.tenant_id = $1 and %s limit $5', conditions)
    using tenant, token, word, weight, matches_max;
end $$;

-- The items of the tenant that the connection is of, whatever the query says, that a query finds: codes that are it, in this
-- case (5) or another (4), or begin like it (3), then names and descriptions (1). It runs as its owner, since row-level security lets no comparison of likeness
-- choose where an index is looked at; so it takes its tenant from the connection and nothing else.
create function search_items(query text, matches_max integer) returns table (item_id uuid, tier integer, score real)
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    tenant uuid := current_tenant();
    code_asked text := search_text(btrim(query));
    tokens text[] := search_words_of(query);
    known bigint[]; meant text[]; weights real[];
    found_any boolean := false;
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
    select array_agg(m.token), array_agg(m.word), array_agg(m.weight), count(distinct m.token)
    into known, meant, weights, tokens_known
    from search_meanings(tenant, tokens) m;
    -- A query of which most words mean nothing here is not answered with the rest.
    if tokens_known = 0 or tokens_known * 2 < cardinality(tokens) then
        return;
    end if;
    return query select s.item_id, 1, s.score from search_by_words(tenant, known, meant, weights, matches_max) s;
    found_any := found;
    if found_any or tokens_known < 2 then
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
revoke execute on function search_items(text, integer), search_by_words(uuid, bigint[], text[], real[], integer),
    search_meanings(uuid, text[]) from public;
grant execute on function search_items(text, integer) to twh_tenant;
