# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
# The server that `demo` leaves running. It is stopped, watched and restarted like a part, but not started by `up`.
readonly SERVER=twh
ORDER[twh]=90
PORT[twh]=8080
PORT[twh-ops]=8081
VARIABLE[twh]=TWH_HTTP_ADDR
ADDRESS[twh]=127.0.0.1:@PORT@
DEFAULT_PORT[twh]=80
NEEDS[twh]=curl

readonly TARGET=${CARGO_TARGET_DIR:-$ROOT/target} PROFILE=${TWH_DEV_PROFILE:-ci}

# built NAME PROFILE: where cargo puts a program. It names the folder for the profile, but for three of its own.
built() {
  case $2 in
    dev | test) echo "$TARGET/debug/$1" ;;
    bench) echo "$TARGET/release/$1" ;;
    *) echo "$TARGET/$2/$1" ;;
  esac
}

# profiled COMMAND…: a command that builds with the profile. In `ci`, C is not optimised either. librdkafka's own build knows
# nothing of profiles: with optimisation and debug information, as it comes, it is a sixth of all that is compiled.
# HOST_CFLAGS is read by the other crates with C in them, after CFLAGS, and not by librdkafka's.
profiled() {
  [[ $PROFILE != ci ]] || local -x CFLAGS="-O0 -g0" HOST_CFLAGS="-O1"
  "$@"
}

BINARY=$(built twh "$PROFILE")
readonly BINARY

version_twh() { "$BINARY" --version 2>/dev/null | cut -d ' ' -f 2; }

# Of each profile: TWH_DEV_PROFILE may have been another one when it was started.
marker_twh() { printf '%s serve\n' "$TARGET"/{ci,release,debug}/twh "$BINARY"; }

launch_twh() {
  [[ -x $BINARY ]] || die "there is no $BINARY yet: ./dev demo builds and starts it"
  export_addresses
  # Signs checkpoints of the ledger; made once, for as long as the instance's data lives.
  export TWH_LEDGER_KEY_FILE=${TWH_LEDGER_KEY_FILE:-$HOME_DIR/ledger-key.pem}
  [[ -e $TWH_LEDGER_KEY_FILE ]] || "$BINARY" ledger-key --out "$TWH_LEDGER_KEY_FILE"
  spawn "$SERVER" "$BINARY" serve
}

ready_twh() { curl -fsS -m 5 -o /dev/null "http://$(address_of "$SERVER")/ready" 2>/dev/null; }
