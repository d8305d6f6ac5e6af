# shellcheck shell=bash # it is sourced by ./dev
# The verbs that build the code and run it.

# With --json, standard output is the one line that the demo prints, so that it can be piped; the rest goes to
# standard error. The redirections are on functions: what these start and leave running must not hold the pipe open.
verb_demo() {
  local aside=1 tools
  ! among --json "$@" || aside=2
  tools=$(built twh-tools "$PROFILE")
  prepare_demo >&"$aside"
  "$tools" demo "$@"
  tell_what_is_up >&"$aside"
}

# The parts are fetched and started while the compiler runs.
prepare_demo() {
  require_cargo
  allow_installation "${PARTS[@]}"
  compile_little
  start_lane bring_up "${PARTS[@]}"
  # of the tools only what the demo needs, without the benchmarks
  step "build" profiled cargo build --profile "$PROFILE" -p twh -p twh-tools --no-default-features --features twh-tools/demo
  join_lane
  ((${#FAILED_STEPS[@]} == 0)) || die "the demo cannot run: ${FAILED_STEPS[*]} failed"
  export_addresses
  serve
}

tell_what_is_up() {
  say
  say "The server and its parts are still up:"
  say "  http://$(address_of "$SERVER")/ready     the API; ./dev logs $SERVER -f shows its log"
  say "  ./dev psql                        the ledger: select * from stock_movements limit 10;"
  say "  ./dev status                      what runs where"
  say "  ./dev down                        stops all of it (--purge removes the data too)"
}

# Starts the server, or restarts it where the one that runs is of another build.
serve() {
  local pid
  lock
  if pid=$(pid_of "$SERVER") && ! [[ /proc/$pid/exe -ef $BINARY ]]; then
    stop "$SERVER"
  fi
  start "$SERVER"
  unlock
}

# Speed is measured on what is shipped.
verb_bench() {
  require_cargo
  compile_well
  bring_up "${PARTS[@]}" "${OPTIONAL_PARTS[@]}"
  export_addresses
  cargo build --quiet --release -p twh -p twh-tools
  "$(built twh-tools release)" bench "$@"
}

verb_microbench() {
  require_cargo
  bring_up "${PARTS[@]}"
  export_addresses
  cargo bench -p twh-benches "$@"
}

# Needs none of the parts: everything is simulated.
verb_simulate() {
  require_cargo
  cargo run --quiet --release -p twh-simulator -- "$@"
}
