# shellcheck shell=bash # it is sourced by ./dev
# What must pass: the checks and the tests.

readonly CARGO_DENY_VERSION=0.20.2

verb_check() {
  require_cargo
  step "format" cargo fmt --all --check
  step "lints" cargo clippy --release --workspace --all-targets -- -D warnings
  step "cargo-deny" ensure_cargo_deny
  # Advisories are left out: their database is a git repository, which not every build machine can reach. Where it can
  # be: cargo deny check advisories
  step "tests that are run" every_test_is_run
  step "licences, bans, sources" "$TOOLS/bin/cargo-deny" --log-level error check licenses bans sources
}

ensure_cargo_deny() {
  [[ $("$TOOLS/bin/cargo-deny" --version 2>/dev/null) != "cargo-deny $CARGO_DENY_VERSION" ]] || return 0
  say "To be installed from crates.io: cargo-deny $CARGO_DENY_VERSION, into .twh/tools (one to three minutes, once)"
  # unoptimised: it builds in half the time, and has a second of work
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
    cargo install --quiet --locked --debug --root "$TOOLS" --version "$CARGO_DENY_VERSION" cargo-deny
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

verb_test() {
  require_cargo
  step "parts" bring_up "${PARTS[@]}" "${OPTIONAL_PARTS[@]}"
  export_addresses
  find_real_month
  verb_check
  step "Python packages" ensure_venv
  # the test that reads our topics as a stranger would: Python, with its own Kafka, Avro and registry client
  export TWH_TEST_PYTHON=$VENV/bin/python
  step "npm packages" ensure_npm_packages
  export TWH_TEST_NPM_PACKAGES=$NPM/node_modules
  step "build" cargo build --release --workspace --lib --bins --tests
  step "tests" cargo test --release --workspace
  say
  timings
  say "all passed"
}

# Not part of `test`: a server that can do SAML is a second build of half the workspace.
verb_saml() {
  require_cargo
  step "parts" bring_up "${PARTS[@]}"
  export_addresses
  step "npm packages" ensure_npm_packages
  export TWH_TEST_NPM_PACKAGES=$NPM/node_modules
  step "lints" cargo clippy --release -p twh-accounts -p twh-tests --features twh-accounts/saml,twh-tests/saml --all-targets \
    -- -D warnings
  step "build" cargo build --release -p twh --features saml
  step "tests" cargo test --release -p twh-tests --features saml --test sso
  say
  timings
  say "all passed"
}

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

# The virtual environment is made again when its list of packages changes.
ensure_venv() {
  local list=$DEPLOY/python-requirements.txt stamp
  stamp=$(sha256sum <"$list")
  [[ ! -f $VENV/stamp || $(<"$VENV/stamp") != "$stamp" ]] || return 0
  install_for venv
  python3 -m venv --clear "$VENV"
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$list"
  echo "$stamp" >"$VENV/stamp"
}

# The packages are installed again when their lock file changes; the lock file holds their checksums.
ensure_npm_packages() {
  local stamp
  stamp=$(cat deploy/npm/package.json deploy/npm/package-lock.json | sha256sum)
  [[ ! -f $NPM/stamp || $(<"$NPM/stamp") != "$stamp" ]] || return 0
  install_for npm
  rm -rf "$NPM"
  mkdir -p "$NPM"
  cp deploy/npm/package.json deploy/npm/package-lock.json "$NPM"
  npm ci --prefix "$NPM" --ignore-scripts --no-audit --no-fund --loglevel=error
  echo "$stamp" >"$NPM/stamp"
}
