# shellcheck shell=bash # it is sourced by ./dev
# What must be installed: packages of the distribution, and jars from Maven Central. A jar whose checksum is not the
# committed one must never be run.

# --- packages ---------------------------------------------------------------------------------------------------------

# Each missing_<need> prints Debian's packages that are missing for it. A part that has a need of its own defines it in
# its own file.
missing_java() { java_bin >/dev/null || echo openjdk-17-jre-headless; }
missing_javac() { javac_bin >/dev/null || echo openjdk-17-jdk-headless; }
missing_curl() { has curl || echo curl; }
missing_maven() { has mvn || echo maven; }
missing_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv; }
missing_npm() {
  has node || echo nodejs
  has npm || echo npm
}
# librdkafka is built from source with its own configure script, and compresses with zlib
missing_build() {
  has gcc || echo gcc libc6-dev
  has g++ || echo g++
  has make || echo make
  has pkg-config || echo pkg-config
  [[ -f /usr/include/zlib.h ]] || echo zlib1g-dev
}

# missing_packages WHAT…: of parts, which have a row of needs, and of needs.
missing_packages() {
  local what need
  for what in "$@"; do
    for need in ${NEEDS[$what]-$what}; do
      missing_"$need"
    done
  done | sort -u
}

# Says what is missing before it installs anything.
install_for() {
  local packages jars
  jars=$(missing_artefacts "$@" | xargs)
  packages=$(missing_packages "$@" ${jars:+maven} | xargs)
  [[ -n $packages$jars ]] || return 0
  say "To be installed:"
  [[ -z $packages ]] || say "  with apt-get:         $packages"
  [[ -z $jars ]] || say "  from Maven Central:   the jars of $jars, into .twh/artefacts, checksums checked"
  [[ -z $packages ]] || install_packages "$packages"
}

install_packages() {
  local packages=$1 began log apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
  has apt-get || die "no apt-get here: install the like of '$packages' yourself, or use docker-compose.yml"
  ((EUID == 0)) || apt=(sudo "${apt[@]}")
  began=$(now_ms)
  mkdir -p "$HOME_DIR/logs"
  log=$(log_of apt)
  "${apt[@]}" update -q </dev/null >"$log" 2>&1 || say "  apt-get update failed; trying with the lists that are there"
  # newer releases no longer have Java 17
  apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 || packages=${packages//openjdk-17-j/default-j}
  # shellcheck disable=SC2086 # a list of names
  if ! "${apt[@]}" install -y -q --no-install-recommends $packages </dev/null >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    die "apt-get could not install: $packages"
  fi
  progress packages "installed in $(elapsed "$began")"
}

# allow_installation NEED…: asks for the password now where something will be installed in the background.
allow_installation() {
  local packages
  ((EUID != 0)) && has sudo || return 0
  packages=$(missing_packages "$@" | xargs)
  [[ -z $packages ]] || { say "To be installed with apt-get: $packages"; sudo -v; }
}

require_cargo() {
  has cargo || die "cargo is missing. Install Rust 1.89 or later, with rustfmt and clippy, from https://rustup.rs"
  install_for build
}

# --- Java -------------------------------------------------------------------------------------------------------------

# A Java of 17 or later, which both Kafka 4 and the registry ask for.
java_bin() {
  local java version
  for java in "${JAVA_HOME:-}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    [[ -x $java ]] || continue
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [[ -z $version ]] || ((version < 17)) || { echo "$java"; return; }
  done
  return 1
}

# Its compiler, of 17 or later: one small class starts the search engine.
javac_bin() {
  local javac version
  for javac in "${JAVA_HOME:-}/bin/javac" "$(command -v javac || true)" /usr/lib/jvm/*/bin/javac; do
    [[ -x $javac && -x ${javac%c} ]] || continue
    version=$("$javac" -version 2>&1 | sed -n 's/javac \([0-9]*\).*/\1/p')
    [[ -z $version ]] || ((version < 17)) || { echo "$javac"; return; }
  done
  return 1
}

# --- jars -------------------------------------------------------------------------------------------------------------

# Every jar in the list is there with its checksum, and no jar besides: anything less counts as absent.
jars_match() {
  local dir=$1 list=$2
  [[ -d $dir ]] || return 1
  [[ $(find "$dir" -name '*.jar' | wc -l) == $(wc -l <"$list") ]] || return 1
  (cd "$dir" && sha256sum --check --strict --quiet "$list" 2>&1)
}

artefacts_are_whole() { jars_match "$ARTEFACTS/$1" "$DEPLOY/$1/jars.sha256" >/dev/null; }

missing_artefacts() {
  local part
  for part in "$@"; do
    [[ -n ${JARS[$part]:-} ]] || continue
    artefacts_are_whole "$part" || echo "$part"
  done
}

# Downloads next to the final place, checks, and only then renames: a folder that is there was whole once.
fetch_artefacts() {
  local part=$1 began fresh
  ! artefacts_are_whole "$part" || return 0
  began=$(now_ms)
  fresh=$(mktemp -d "$ARTEFACTS/$part.XXXXXX")
  download_"$part" "$fresh"
  check_download "$fresh" "$DEPLOY/$part/jars.sha256"
  rm -rf "${ARTEFACTS:?}/$part"
  mv "$fresh" "$ARTEFACTS/$part"
  progress "$part" "downloaded and checked in $(elapsed "$began")"
}

check_download() {
  local dir=$1 list=$2 wrong
  ! wrong=$(jars_match "$dir" "$list") || return 0
  printf '%s\n' "${wrong:-the number of jars differs}" | head -n 5 >&2
  rm -rf "$dir"
  die "the download is not what $list says. Remove the file from ~/.m2/repository and try again; if it differs" \
    "once more, do not use it"
}

# Maven's local repository is not made for two Mavens at once.
maven() {
  local log
  log=$(mktemp "$HOME_DIR/logs/maven.XXXXXX.log")
  if ! flock "$ARTEFACTS/maven.lock" mvn --batch-mode --quiet "$@" </dev/null >"$log" 2>&1 9>&-; then
    head -n 15 "$log" >&2
    die "maven failed: is Maven Central reachable?"
  fi
  rm "$log"
}

# copy_jars POM DIR: what a pom depends on, into a folder.
copy_jars() {
  maven -f "$1" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$2"
}

# --- what tests are run with -------------------------------------------------------------------------------------------

# The virtual environment is made again when its list of packages changes.
ensure_venv() {
  lock
  install_venv
  unlock
}

install_venv() {
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
  lock
  install_npm_packages
  unlock
}

install_npm_packages() {
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
