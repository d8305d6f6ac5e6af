# shellcheck shell=bash disable=SC2153 # it is sourced by ./dev; the rows are declared in parts.sh
# Where each part is: its port, its address, and whether it is one of ours or one that the environment names.

# --- addresses --------------------------------------------------------------------------------------------------------

# Ports of an instance are the documented ones plus its shift.
port_of() { echo $((PORT[$1] + SHIFT)); }

# The address at which we run a part ourselves, in the form that its variable takes.
own_address() { echo "${ADDRESS[$1]/@PORT@/$(port_of "$1")}"; }

# What the environment calls a part; empty where it names none.
named_address() {
  local variable=${VARIABLE[$1]}
  echo "${!variable:-}"
}

address_of() {
  local named
  named=$(named_address "$1")
  echo "${named:-$(own_address "$1")}"
}

# "host port" of the first server in an address.
host_and_port() {
  local address=$2 default=${DEFAULT_PORT[$1]}
  [[ $address != https:* ]] || default=443
  address=${address#*://}
  address=${address%%[/?]*}
  address=${address%%,*}
  address=${address##*@}
  case $address in
    *:*) echo "${address%:*} ${address##*:}" ;;
    *) echo "$address $default" ;;
  esac
}

# Whether something listens there: answers HOST PORT.
# shellcheck disable=SC2016 # the inner shell expands it
answers() { timeout 2 bash -c ': <"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; }

# A part is external where the environment names it and what answers there is no process of ours. After
# `eval "$(./dev env)"` the environment names our own parts, which stay ours.
is_external() {
  local part=$1 named host port
  named=$(named_address "$part")
  [[ -n $named ]] || return 1
  [[ $named == "$(own_address "$part")" ]] || return 0
  ! is_running "$part" || return 1
  read -r host port < <(host_and_port "$part" "$named")
  answers "$host" "$port"
}

refuse_taken_port() {
  local part=$1 host port
  read -r host port < <(host_and_port "$part" "$(address_of "$part")")
  ! answers "$host" "$port" || die "$part: $host:$port is taken by a process that this instance did not start." \
    "Stop it, or name it in ${VARIABLE[$part]}, or set TWH_DEV_PORT_SHIFT for other ports"
}

# --- the shift of the ports -------------------------------------------------------------------------------------------

# An instance keeps its ports. Two checkouts on one machine, or a second instance, do not have to agree on them: where
# TWH_DEV_PORT_SHIFT says nothing and the ports are taken, `up` moves on in hundreds and says so.
load_shift() {
  [[ $INSTANCE =~ ^[a-z0-9][a-z0-9-]*$ && ! $INSTANCE =~ ^(artefacts|fuzz|mutants|npm|tools|venv)$ ]] ||
    die "TWH_DEV_INSTANCE=$INSTANCE: use small letters, digits and hyphens (not artefacts, fuzz, mutants, npm, tools or venv)"
  local stored=
  [[ ! -f $HOME_DIR/port-shift ]] || stored=$(<"$HOME_DIR/port-shift")
  SHIFT=${TWH_DEV_PORT_SHIFT:-${stored:-0}}
  [[ $SHIFT =~ ^[1-3]?[0-9]{1,4}$ ]] || die "TWH_DEV_PORT_SHIFT=$SHIFT: use a number below 40000"
  if [[ -n $stored && $stored != "$SHIFT" ]] && any_running; then
    die "instance '$INSTANCE' runs with its ports shifted by $stored: ./dev down first, or unset TWH_DEV_PORT_SHIFT"
  fi
}

any_running() {
  local part
  for part in "$SERVER" "${PARTS[@]}" "${OPTIONAL_PARTS[@]}"; do
    ! is_running "$part" || return 0
  done
  return 1
}

# Those of the parts, and the second ones that some of them have. The server comes later, and says itself where its
# port is taken.
ports_are_free() {
  local name
  for name in "${!PORT[@]}"; do
    [[ $name != "$SERVER"* ]] || continue
    ! answers 127.0.0.1 "$(port_of "$name")" || return 1
  done
}

choose_shift() {
  local wanted=$SHIFT
  if [[ -z ${TWH_DEV_PORT_SHIFT:-} && -z $(named_by_environment) ]] && ! any_running; then
    for SHIFT in "$wanted" {100..900..100}; do
      ! ports_are_free || break
    done
    [[ $SHIFT == "$wanted" ]] || say "Ports of 127.0.0.1 are taken: this instance has its own, shifted by $SHIFT."
  fi
  echo "$SHIFT" >"$HOME_DIR/port-shift"
}

named_by_environment() {
  local part
  for part in "${PARTS[@]}"; do
    named_address "$part"
  done
}
