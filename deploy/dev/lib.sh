# shellcheck shell=bash # it is sourced by ./dev
# What every other file here uses: saying, timing, waiting, the lock.

say() { printf '%s\n' "$*"; }
progress() { printf '  %-9s %s\n' "$1" "$2"; }
die() {
  printf './dev: %s\n' "$*" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# among WANTED WORD…: whether it is one of the words.
among() {
  local wanted=$1 word
  shift
  for word in "$@"; do
    [[ $word != "$wanted" ]] || return 0
  done
  return 1
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# elapsed BEGAN_MS: the seconds since then, with one decimal.
elapsed() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# wait_until SECONDS COMMAND…: asks ten times a second.
wait_until() {
  local deadline=$(($(now_ms) + $1 * 1000))
  shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.1
  done
}

# tenth_of_memory LEAST: a tenth of the machine's memory in megabytes, at least so many and at most 2,048.
tenth_of_memory() {
  awk -v least="$1" '/^MemTotal:/ { mb = int($2 / 10240); print (mb < least ? least : mb > 2048 ? 2048 : mb) }' /proc/meminfo
}

# Serialises what starts and stops things in this checkout: two `./dev up` at once must not start two brokers.
lock() {
  mkdir -p "$HOME_DIR/logs" "$ARTEFACTS"
  exec 9>"$ROOT/.twh/lock"
  flock -n 9 && return
  say "Another ./dev is at work in this checkout; waiting for it…"
  flock 9
}
unlock() { exec 9>&-; }
