# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
# The schema registry: Apicurio, which speaks as Confluent's does.
ORDER[registry]=20
PORT[registry]=18081
PORT[registry-management]=19081
VARIABLE[registry]=TWH_SCHEMA_REGISTRY_URL
ADDRESS[registry]=http://127.0.0.1:@PORT@/apis/ccompat/v7
DEFAULT_PORT[registry]=80
NEEDS[registry]="java curl"
JARS[registry]=yes

version_registry() { cut -d : -f 3 "$DEPLOY/registry/coordinates"; }
marker_registry() { echo "-Dtwh.home=$HOME_DIR"; }

# The archive's parent pom is not published, so that only `get` without transitive dependencies can fetch it, and only
# up to 2.10 does `get` also say where to put it.
download_registry() {
  maven org.apache.maven.plugins:maven-dependency-plugin:2.10:get -Dtransitive=false \
    -Dartifact="$(<"$DEPLOY/registry/coordinates")" -Ddest="$1/archive.tar.gz"
  (cd "$1" && sha256sum --check --strict --quiet "$DEPLOY/registry/archive.sha256") ||
    { rm -rf "$1"; die "the registry's archive is not what deploy/registry/archive.sha256 says"; }
  tar -xzf "$1/archive.tar.gz" -C "$1"
  rm "$1/archive.tar.gz"
}

launch_registry() {
  local home=$HOME_DIR/registry java runner
  fetch_artefacts registry
  java=$(java_bin)
  mkdir -p "$home"
  runner=$(find "$ARTEFACTS/registry" -maxdepth 1 -name '*-runner.jar')
  # Confluent's ids are per schema, as its serializers expect; Apicurio's own mode is per version.
  spawn registry env \
    QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT="$(port_of registry)" \
    QUARKUS_MANAGEMENT_HOST=127.0.0.1 QUARKUS_MANAGEMENT_PORT="$(port_of registry-management)" \
    APICURIO_DATASOURCE_URL="jdbc:h2:file:$home/schemas" APICURIO_DATASOURCE_JDBC_INITIAL_SIZE=2 \
    APICURIO_DATASOURCE_JDBC_MIN_SIZE=2 APICURIO_DATASOURCE_JDBC_MAX_SIZE=10 \
    APICURIO_CCOMPAT_LEGACY_ID_MODE_ENABLED=false \
    "$java" -Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dtwh.home=$HOME_DIR" \
    -Djava.util.logging.manager=org.jboss.logmanager.LogManager -jar "$runner"
}

# Ready is also having Confluent's default compatibility: Apicurio's is NONE.
ready_registry() {
  curl -fsS -m 5 -o /dev/null -X PUT -H 'Content-Type: application/json' -d '{"compatibility":"BACKWARD"}' \
    "$(own_address registry)/config" 2>/dev/null
}
