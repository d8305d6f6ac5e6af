-- Attempts that failed, or are still under way: on an account from an address, and from an address. By keyed hash: who cannot
-- sign in has told us nothing that is worth keeping.
create table failed_attempts (
    key     bytea primary key,
    -- Whole for accounts; for addresses what is left of it, since it wanes.
    count   double precision not null,
    last_at timestamptz not null
);
create index failed_attempts_by_time on failed_attempts (last_at);
