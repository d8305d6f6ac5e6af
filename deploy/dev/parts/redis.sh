# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
ORDER[redis]=40
PORT[redis]=16379
VARIABLE[redis]=TWH_REDIS_URL
ADDRESS[redis]=redis://127.0.0.1:@PORT@
DEFAULT_PORT[redis]=6379
NEEDS[redis]=redis

missing_redis() { has redis-server || echo redis-server; }
version_redis() { redis-server --version 2>/dev/null | sed -n 's/.* v=\([^ ]*\).*/\1/p'; }
marker_redis() { echo "redis-server 127.0.0.1:$(port_of redis)"; }

# A cache and counters only: nothing is kept on disk.
launch_redis() {
  mkdir -p "$HOME_DIR/redis"
  spawn redis redis-server --bind 127.0.0.1 --port "$(port_of redis)" --save '' --appendonly no --maxmemory 256mb \
    --maxmemory-policy noeviction --dir "$HOME_DIR/redis"
}

ready_redis() { [[ $(redis-cli -h 127.0.0.1 -p "$(port_of redis)" ping 2>/dev/null) == PONG ]]; }
