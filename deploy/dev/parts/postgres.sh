# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
ORDER[postgres]=30
PORT[postgres]=15432
VARIABLE[postgres]=TWH_DATABASE_URL
ADDRESS[postgres]=postgres://twh@127.0.0.1:@PORT@/twh
DEFAULT_PORT[postgres]=5432
NEEDS[postgres]=postgres
# It waits for its clients to leave on SIGTERM, and asks them to on SIGINT.
STOP_SIGNAL[postgres]=INT

# It refuses to run as root, and the user it then runs as may not be able to reach this checkout.
AS_POSTGRES=()
((EUID != 0)) || AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups)
readonly AS_POSTGRES

postgres_data() {
  if ((EUID == 0)) && id postgres >/dev/null 2>&1 && ! "${AS_POSTGRES[@]}" test -x "$HOME_DIR"; then
    echo "/var/tmp/twh-$(sha256sum <<<"$HOME_DIR" | head -c 12)"
  else
    echo "$HOME_DIR/postgres"
  fi
}

# The server programs are not on PATH. The version that made the data, where it is installed: a newer one next to it
# cannot read them. Else the newest of the distribution.
postgres_bin() {
  local data bin
  data=$(postgres_data)
  bin=/usr/lib/postgresql/$(cat "$data/PG_VERSION" 2>/dev/null || true)/bin/postgres
  [[ -x $bin ]] || bin=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -1)
  [[ -x $bin ]] && dirname "$bin"
}

missing_postgres() {
  postgres_bin >/dev/null || echo postgresql
  has psql || echo postgresql-client
}

version_postgres() {
  local bin
  bin=$(postgres_bin) && "$bin/postgres" --version | awk '{ print $3 }'
}

marker_postgres() { echo "-D $(postgres_data)"; }

purge_postgres() {
  local data
  data=$(postgres_data)
  rm -rf "${data:?}"
}

launch_postgres() {
  local data bin
  data=$(postgres_data)
  bin=$(postgres_bin)
  [[ $data == "$HOME_DIR"/* ]] || progress postgres "its data is in $data: user 'postgres' cannot enter this checkout"
  if [[ ! -f $data/PG_VERSION ]]; then
    init_postgres "$bin" "$data"
  fi
  forget_zombie_postmaster "$data"
  # fsync and synchronous_commit keep their defaults: what is acknowledged is on the disk here too.
  # When transactions were committed is what the benchmark of webhooks counts from.
  spawn postgres "${AS_POSTGRES[@]}" "$bin/postgres" -D "$data" -c listen_addresses=127.0.0.1 \
    -c port="$(port_of postgres)" -c unix_socket_directories= -c shared_buffers="$(tenth_of_memory 256)MB" -c max_connections=400 \
    -c max_wal_size=4GB -c wal_compression=lz4 -c jit=off -c track_commit_timestamp=on
}

# init_postgres BIN DATA
init_postgres() {
  mkdir -p "$2"
  ((EUID != 0)) || chown postgres: "$2"
  chmod 700 "$2"
  (cd / && "${AS_POSTGRES[@]}" "$1/initdb" -D "$2" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8) \
    >"$(log_of initdb)" 2>&1 || { tail -n 15 "$(log_of initdb)" >&2; die "initdb failed in $2"; }
}

# Where nobody reaps a killed postmaster, it stays a zombie, which the next one takes for a running server.
forget_zombie_postmaster() {
  local file=$1/postmaster.pid pid
  [[ -f $file ]] || return 0
  pid=$(head -n 1 "$file")
  [[ ! -d /proc/$pid ]] || ! are_gone "$pid" || rm "$file"
}

postgres_says() { psql -XqAt -h 127.0.0.1 -p "$(port_of postgres)" -U postgres -d postgres -c "$1"; }
postgres_admin() { postgres_says "$1" 2>/dev/null; }

# Ready is also having the role and the database; the role is no superuser, so that a missing grant shows here.
ready_postgres() {
  [[ $(postgres_admin 'select 1') == 1 ]] || return 1
  [[ -n $(postgres_admin "select 1 from pg_roles where rolname = 'twh'") ]] ||
    postgres_admin 'create role twh login createdb' || return 1
  # What its connections become where they read for a tenant (migrations/0006).
  [[ -n $(postgres_admin "select 1 from pg_roles where rolname = 'twh_tenant'") ]] ||
    postgres_admin 'create role twh_tenant nologin; grant twh_tenant to twh' || return 1
  [[ -n $(postgres_admin "select 1 from pg_database where datname = 'twh'") ]] ||
    postgres_admin 'create database twh owner twh'
}

# A running server reads the files of its libraries when they are first used: after an upgrade they may be of another
# build. psql answers 1 where the server refused, and 2 where there is no connection (it may be just starting).
trouble_postgres() {
  local text code=0
  text=$(PGCONNECT_TIMEOUT=5 postgres_says "load 'plpgsql'" 2>&1 >/dev/null) || code=$?
  ((code != 1)) || echo "it cannot load its own libraries (${text//$'\n'/ })"
}
