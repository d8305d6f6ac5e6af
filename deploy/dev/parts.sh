# shellcheck shell=bash # it is sourced by ./dev
# The parts, and the verbs over them. A new part is one new file parts/<name>.sh and nothing else. It sets these rows:
#
#   ORDER         where it stands in lists
#   OPTIONAL      "yes" where TWH does without it: then `up` starts it only when it is named
#   PORT          the port of instance "main"; a second port has a name of its own, such as kafka-controller
#   VARIABLE      the variable of the environment that names one that is used instead
#   ADDRESS       what ours is called in that variable; @PORT@ stands for its port
#   DEFAULT_PORT  the port of an address that has none
#   NEEDS         for what packages must be there: each need has a function missing_<need> (artefacts.sh, or its own file)
#   JARS          "yes" where it is made of the jars in deploy/<name>/jars.sha256
#   STOP_SIGNAL   the signal that stops it, where that is not TERM
#   STOP_WITHIN_S how long it may take to stop before it is killed, where 30 s are not enough
#   STOP_TAKES    what that waits for, in words
#
# and defines these functions:
#
#   launch_<name>    starts it with `spawn`, after `fetch_artefacts` where it has jars
#   ready_<name>     whether it can be used; what is missing for that in a fresh one, it makes
#   version_<name>   the version that is started
#   marker_<name>    lines, one of which the command line of its process holds, and that of no other instance's
#   download_<name>  puts its jars into a folder; where it has jars
#   trouble_<name>   may say why one that runs cannot be used until it is restarted
#   purge_<name>     may remove data that it has outside the instance's folder
unset -v ORDER OPTIONAL PORT VARIABLE ADDRESS DEFAULT_PORT NEEDS JARS STOP_SIGNAL STOP_WITHIN_S STOP_TAKES # the environment may have a PORT
# shellcheck disable=SC2034 # the other files read them
declare -A ORDER OPTIONAL PORT VARIABLE ADDRESS DEFAULT_PORT NEEDS JARS STOP_SIGNAL STOP_WITHIN_S STOP_TAKES

for file in "$CODE"/parts/*.sh; do
  # shellcheck source=/dev/null # each is checked by itself
  source "$file"
done
unset file

mapfile -t ALL_PARTS < <(for part in "${!ORDER[@]}"; do echo "${ORDER[$part]} $part"; done | sort -n | cut -d ' ' -f 2)
PARTS=() OPTIONAL_PARTS=()
for part in "${ALL_PARTS[@]}"; do
  if [[ $part == "$SERVER" ]]; then
    continue
  elif [[ -n ${OPTIONAL[$part]:-} ]]; then
    OPTIONAL_PARTS+=("$part")
  else
    PARTS+=("$part")
  fi
done
unset part
readonly ALL_PARTS PARTS OPTIONAL_PARTS READY_WITHIN_S=60

require_known() {
  local part
  for part in "$@"; do
    among "$part" "${ALL_PARTS[@]}" || die "there is no part '$part': ${PARTS[*]} ${OPTIONAL_PARTS[*]} $SERVER"
  done
}

# --- starting ---------------------------------------------------------------------------------------------------------

verb_up() {
  require_known "$@"
  ! among "$SERVER" "$@" || die "the server is started by ./dev demo; once it is built, by ./dev restart $SERVER"
  if (($#)); then bring_up "$@"; else bring_up "${PARTS[@]}"; fi
}

bring_up() {
  local part ours=() missing=()
  lock
  choose_shift
  for part in "$@"; do
    if is_external "$part"; then use_external "$part"; else ours+=("$part"); fi
  done
  for part in "${ours[@]}"; do
    if is_usable "$part"; then
      progress "$part" "up at $(address_of "$part")"
    else
      missing+=("$part")
    fi
  done
  if ((${#missing[@]})); then
    install_for "${missing[@]}"
    start_all "${missing[@]}"
  fi
  unlock
}

use_external() {
  local part=$1 address host port
  address=$(address_of "$part")
  read -r host port < <(host_and_port "$part" "$address")
  answers "$host" "$port" || die "$part: ${VARIABLE[$part]} names $host:$port, and nothing answers there"
  progress "$part" "the one that ${VARIABLE[$part]} names, at $host:$port"
}

# Whether it runs and is ready; one that can only be restarted ends the script.
is_usable() {
  local part=$1 pid trouble
  pid=$(pid_of "$part") || return 1
  trouble=$(trouble_of "$part" "$pid")
  [[ -z $trouble ]] || die "$(outdated "$part" "$trouble")"
  ready_"$part"
}

# What is wrong with a part that runs, where only a restart mends it; else nothing.
trouble_of() {
  if runs_replaced_program "$2"; then
    echo "its program was replaced while it ran, as the upgrade of a package or a build does"
  elif declare -F trouble_"$1" >/dev/null; then
    trouble_"$1"
  fi
}

outdated() { echo "$1: $2. ./dev restart $1 starts the one that is installed now"; }

# Starts all at once; each says when it is ready.
start_all() {
  local part pid pids=() failed=0
  for part in "$@"; do
    start "$part" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
  done
  ((failed == 0)) || die "not everything is up"
}

start() {
  local part=$1 began pid
  began=$(now_ms)
  if ! is_running "$part"; then
    refuse_taken_port "$part"
    launch_"$part"
  fi
  pid=$(<"$(pid_file_of "$part")")
  if ! wait_until "$READY_WITHIN_S" is_settled "$part" "$pid" || are_gone "$pid"; then
    report_failure "$part"
    return 1
  fi
  progress "$part" "ready at $(address_of "$part") in $(elapsed "$began")"
}

is_settled() { ready_"$1" || are_gone "$2"; }

report_failure() {
  local part=$1 log
  log=$(log_of "$part")
  {
    progress "$part" "did not become ready; the end of its log:"
    tail -n 15 "$log" | sed 's/^/    | /'
    progress "$part" "all of it: ./dev logs $part. Try ./dev restart $part; ./dev down --purge starts from nothing"
  } >&2
}

# --- stopping ---------------------------------------------------------------------------------------------------------

verb_down() {
  local part purge=${1:-}
  [[ -z $purge || $purge == --purge ]] || die "down takes only --purge"
  lock
  # the server first: it would only complain about the parts that leave it
  stop "$SERVER"
  for part in "${PARTS[@]}" "${OPTIONAL_PARTS[@]}"; do
    stop "$part" &
  done
  wait
  [[ -z $purge ]] || purge_data
  unlock
}

purge_data() {
  local part
  for part in "${ALL_PARTS[@]}"; do
    ! declare -F purge_"$part" >/dev/null || purge_"$part"
  done
  rm -rf "${HOME_DIR:?}"
  say "The data and logs of instance '$INSTANCE' are removed."
}

verb_restart() {
  (($#)) || die "restart which part?"
  require_known "$1"
  lock
  stop "$1"
  start "$1"
  unlock
}

verb_kill() {
  local pid
  (($#)) || die "kill which part?"
  require_known "$1"
  lock
  pid=$(pid_of "$1") || die "$1 is not running"
  kill_hard "$pid"
  unlock
  progress "$1" "killed (kill -9); ./dev restart $1 starts it again"
}

# --- JVMs -------------------------------------------------------------------------------------------------------------

readonly COMPILES_LITTLE=-XX:TieredStopAtLevel=1

# For tests: parts that live for minutes, and are killed in between, spend more time on compiling themselves well than
# that saves.
compile_little() { export TWH_DEV_JVM_OPTIONS=${TWH_DEV_JVM_OPTIONS:-$COMPILES_LITTLE}; }

# For what is measured: parts that were started for tests are started again.
compile_well() {
  local part pid
  unset TWH_DEV_JVM_OPTIONS
  for part in kafka search; do
    pid=$(pid_of "$part") || continue
    ! tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qx -- "$COMPILES_LITTLE" || verb_restart "$part"
  done
}

# --- looking ----------------------------------------------------------------------------------------------------------

status_row() { printf '%-9s %-9s %-42s %8s %9s  %s\n' "$@"; }

verb_status() {
  local part notes=()
  status_row PART STATE ADDRESS PID MEMORY VERSION
  for part in "${PARTS[@]}" "${OPTIONAL_PARTS[@]}" "$SERVER"; do
    status_of "$part"
  done
  ((${#notes[@]} == 0)) || printf '\n%s\n' "${notes[@]}"
}

# Prints the row of a part, and adds to the caller's notes.
status_of() {
  local part=$1 state=up pid memory=- version trouble
  version=$(version_"$part") || true
  if [[ $part != "$SERVER" ]] && is_external "$part"; then
    state=external pid=- version=-
  elif pid=$(pid_of "$part"); then
    memory="$(memory_of "$pid") MB"
    trouble=$(trouble_of "$part" "$pid")
    [[ -z $trouble ]] || { state=outdated; notes+=("$(outdated "$part" "$trouble")"); }
  else
    state=down pid=-
  fi
  status_row "$part" "$state" "$(address_of "$part")" "$pid" "$memory" "$version"
}

verb_logs() {
  local part=() follow=() argument logs=()
  for argument in "$@"; do
    if [[ $argument == -f ]]; then follow=(-F); else part=("$argument"); fi
  done
  require_known "${part[@]}"
  if ((${#part[@]})); then
    logs=("$(log_of "${part[0]}")")
  else
    logs=("$HOME_DIR"/logs/*.log)
  fi
  [[ -f ${logs[0]} ]] || die "there is no log ${logs[0]}"
  if ((${#follow[@]} == 0 && ${#logs[@]} == 1)); then cat "${logs[0]}"; else tail -n 20 "${follow[@]}" "${logs[@]}"; fi
}

# --- using ------------------------------------------------------------------------------------------------------------

verb_env() {
  local part
  for part in "${PARTS[@]}" "$SERVER"; do
    env_line "$part"
  done
  # Naming it is using it.
  for part in "${OPTIONAL_PARTS[@]}"; do
    if [[ -n $(named_address "$part") ]] || is_running "$part"; then env_line "$part"; fi
  done
  # the second address of the server: /metrics and /lag
  printf 'export TWH_OPS_ADDR=%q\n' "${TWH_OPS_ADDR:-127.0.0.1:$(port_of twh-ops)}"
  printf 'export TWH_SECRETS_FILE=%q\n' "$(secrets_file)"
}

env_line() { printf 'export %s=%q\n' "${VARIABLE[$1]}" "$(address_of "$1")"; }

# The master key of this instance's secrets: made once, for as long as its data lives.
secrets_file() {
  local file=${TWH_SECRETS_FILE:-$HOME_DIR/secrets}
  if [[ ! -e $file ]]; then
    mkdir -p "$(dirname "$file")"
    (umask 077 && printf 'dev %s\n' "$(head -c 32 /dev/urandom | base64 -w 0)" >"$file")
  fi
  echo "$file"
}

export_addresses() { eval "$(verb_env)"; }

verb_psql() { exec psql "$(address_of postgres)" "$@"; }
