# shellcheck shell=bash # it is sourced by ./dev
# Verbs that are made of steps: each is timed, and one that fails ends nothing that can still say something. And the lane
# in the background: while the compiler runs in front, packages are fetched and parts started there; who needs them joins it.

TIMINGS=()
FAILED_STEPS=()
STEP_STATUS=0

# step NAME COMMAND…: runs it in a shell of its own, which a failure ends (so it is never called as a condition: there
# `set -e` is off). Whether it passed is asked by `passed`.
step() {
  local began name=$1
  shift
  began=$(now_ms)
  say "== $name"
  set +e
  (
    set -e
    "$@"
  )
  STEP_STATUS=$?
  set -e
  TIMINGS+=("$(printf '%-44s %s' "$name" "$(elapsed "$began")")")
  passed || step_failed "$name"
}

# Whether the last step did.
passed() { ((STEP_STATUS == 0)); }

step_failed() {
  FAILED_STEPS+=("$1")
  say "FAILED: $1"
}

# The times of all steps, and which of them failed; fails where one did.
conclude() {
  say
  printf '  %s\n' "${TIMINGS[@]}"
  ((${#FAILED_STEPS[@]} > 0)) || return 0
  printf '  FAILED: %s\n' "${FAILED_STEPS[@]}"
  return 1
}

# --- the lane in the background ---------------------------------------------------------------------------------------

LANE=
LANE_BEGAN=

# start_lane COMMAND…: runs it in the background. What it says goes into a log, which `join_lane` shows.
start_lane() {
  mkdir -p "$HOME_DIR/logs"
  LANE_BEGAN=$(now_ms)
  (
    set -e
    trap 'elapsed "$LANE_BEGAN" >"$HOME_DIR/lane-took"' EXIT
    "$@"
  ) >"$(log_of lane)" 2>&1 &
  LANE=$!
  trap 'kill "$LANE" 2>/dev/null || true' EXIT
}

# Waits for the lane, where there is one, and shows what it said as if it had run in front. `passed` says how it went.
join_lane() {
  local began name="packages and parts (in the background)"
  STEP_STATUS=0
  [[ -n $LANE ]] || return 0
  began=$(now_ms)
  wait "$LANE" || STEP_STATUS=$?
  LANE=
  trap - EXIT
  say "== $name"
  cat "$(log_of lane)"
  TIMINGS+=("$(printf '%-44s %s' "$name" "$(<"$HOME_DIR/lane-took"), waited for $(elapsed "$began")")")
  passed || step_failed "$name"
  # the lane may have given the instance other ports
  load_shift
}
