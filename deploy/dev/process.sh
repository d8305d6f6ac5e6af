# shellcheck shell=bash # it is sourced by ./dev
# The processes of the parts: started so that they outlive this script, found again, and stopped. A process that this
# instance did not start must never be ended: whatever sends a signal has its process id from pid_of.

readonly STOPPED_WITHIN_S=30
# A part that takes longer than this says what it waits for.
readonly STOPS_QUIETLY_S=10

log_of() { echo "$HOME_DIR/logs/$1.log"; }
pid_file_of() { echo "$HOME_DIR/$1.pid"; }

# Prints the process id of a part that we started and that is alive; fails where there is none. A process id alone
# proves nothing: it may have been reused, and a zombie still has one (but no command line). So the command line must
# hold one of the lines that the part's marker prints.
pid_of() {
  local file pid command_line marker
  file=$(pid_file_of "$1")
  [[ -f $file ]] || return 1
  pid=$(<"$file")
  command_line=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
  while IFS= read -r marker; do
    [[ -n $marker && $command_line == *"$marker"* ]] || continue
    echo "$pid"
    return
  done < <(marker_"$1")
  return 1
}

is_running() { pid_of "$1" >/dev/null 2>&1; }

children_of() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }

# Whether the file of a process's program is no longer there: the upgrade of a package puts another in its place, and
# with it other libraries, which the old program may not be able to load. Where the link cannot be read: no.
runs_replaced_program() { [[ $(readlink "/proc/$1/exe" 2>/dev/null) == *' (deleted)' ]]; }

# Megabytes of a process and its children, memory they share counted once.
memory_of() {
  local pids pid
  read -ra pids <<<"$1 $(children_of "$1")"
  for pid in "${pids[@]}"; do
    cat "/proc/$pid/smaps_rollup" 2>/dev/null || true
  done | awk '/^Pss:/ { kb += $2 } END { printf "%d", kb / 1024 }'
}

# spawn PART COMMAND…: starts it as a session of its own and without our lock, so that it outlives this script.
spawn() {
  local part=$1 log
  shift
  log=$(log_of "$part")
  [[ ! -f $log ]] || mv -f "$log" "$log.previous"
  setsid nohup "$@" >"$log" 2>&1 </dev/null 9>&- &
  echo $! >"$(pid_file_of "$part")"
}

# A zombie counts as gone, once its threads are: until then its ports are still open.
are_gone() {
  local pid state threads
  for pid in "$@"; do
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || continue
    threads=("/proc/$pid/task/"*)
    [[ -z $state || ($state == Z && ${#threads[@]} -eq 1) ]] || return 1
  done
}

stop() {
  local part=$1 pid began within=${STOP_WITHIN_S[$1]:-$STOPPED_WITHIN_S}
  if pid=$(pid_of "$part"); then
    began=$(now_ms)
    kill -s "${STOP_SIGNAL[$part]:-TERM}" "$pid"
    if ! wait_until "$STOPS_QUIETLY_S" are_gone "$pid"; then
      progress "$part" "is still stopping${STOP_TAKES[$part]:+: ${STOP_TAKES[$part]}}; it is given $within s"
      if ! wait_until "$((within - STOPS_QUIETLY_S))" are_gone "$pid"; then
        progress "$part" "did not stop within $within s; killing it"
        kill_hard "$pid"
      fi
    fi
    progress "$part" "stopped in $(elapsed "$began")"
  fi
  rm -f "$(pid_file_of "$part")"
}

# Its children too, and waits for them: PostgreSQL does not start again while one of them is alive.
kill_hard() {
  local pids
  read -ra pids <<<"$1 $(children_of "$1")"
  kill -s KILL "${pids[@]}" 2>/dev/null || true
  wait_until "$STOPPED_WITHIN_S" are_gone "${pids[@]}"
}
