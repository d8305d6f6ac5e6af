# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
ORDER[kafka]=10
PORT[kafka]=19092
PORT[kafka-controller]=19093
VARIABLE[kafka]=TWH_KAFKA_BROKERS
ADDRESS[kafka]=127.0.0.1:@PORT@
DEFAULT_PORT[kafka]=9092
NEEDS[kafka]="java curl"
JARS[kafka]=yes
# A broker that is killed has an unclean end: what it had not flushed may be gone with the machine, and the next start looks through
# its logs. Measured: 14 s of a stop for 1,200 partitions that had been written to, on two busy cores.
STOP_WITHIN_S[kafka]=300
STOP_TAKES[kafka]="it flushes and closes the log of each partition"

version_kafka() { sed -n 's/.* kafka_2.13-\(.*\)\.jar/\1/p' "$DEPLOY/kafka/jars.sha256"; }
marker_kafka() { echo "kafka.Kafka $HOME_DIR/kafka/server.properties"; }
download_kafka() { copy_jars "$DEPLOY/kafka/pom.xml" "$1"; }

properties_of_kafka() {
  sed -e "s|@PORT@|$(port_of kafka)|" -e "s|@CONTROLLER_PORT@|$(port_of kafka-controller)|" \
    -e "s|@DATA@|$HOME_DIR/kafka/data|" "$DEPLOY/kafka/server.properties.template"
}

trouble_kafka() {
  cmp -s <(properties_of_kafka) "$HOME_DIR/kafka/server.properties" || echo "its configuration has changed since it was started"
}

launch_kafka() {
  local home=$HOME_DIR/kafka classes=$ARTEFACTS/kafka/classes.jsa java archive
  local logging="-Dlog4j2.configurationFile=$DEPLOY/kafka/log4j2.yaml" jars="$ARTEFACTS/kafka/*"
  fetch_artefacts kafka
  java=$(java_bin)
  mkdir -p "$home"
  properties_of_kafka >"$home/server.properties"
  if [[ ! -f $home/data/meta.properties ]]; then
    format_kafka "$java" "$logging" "$jars" "$home/server.properties"
  fi
  # An archive of the loaded classes is written when the first run ends, and takes a third off every later start. It
  # lies with the jars, since it is good for these jars only. What is killed again and again does not write it.
  if [[ -f $classes ]]; then
    archive=-XX:SharedArchiveFile=$classes
  elif [[ $INSTANCE == crashes ]]; then
    archive=-Xshare:auto
  else
    archive=-XX:ArchiveClassesAtExit=$classes
  fi
  # shellcheck disable=SC2086 # options are words
  spawn kafka "$java" ${TWH_DEV_JVM_OPTIONS:-} -Xms256m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 "$archive" "$logging" -cp "$jars" \
    kafka.Kafka "$home/server.properties"
}

# format_kafka JAVA LOGGING JARS PROPERTIES: the cluster's id is sixteen bytes ("twh-dev-cluster1") in base64.
format_kafka() {
  "$1" -Xmx128m -XX:TieredStopAtLevel=1 "$2" -cp "$3" kafka.tools.StorageTool format \
    --cluster-id dHdoLWRldi1jbHVzdGVyMQ --config "$4" >"$(log_of kafka-format)" 2>&1 ||
    { tail -n 15 "$(log_of kafka-format)" >&2; die "Kafka's data folder could not be formatted"; }
}

# The log says that the broker is registered and unfenced, and the port answers an ApiVersions request.
ready_kafka() {
  grep -q 'Kafka Server started' "$(log_of kafka)" 2>/dev/null && kafka_speaks "$(port_of kafka)"
}

# Length 10, ApiVersions (18) version 0, correlation id 1, no client id; any answer is at least its length of 4 bytes.
kafka_speaks() {
  local bytes
  # shellcheck disable=SC2016 # the inner shell expands it
  bytes=$(timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0"
    printf "\0\0\0\12\0\22\0\0\0\0\0\1\377\377" >&3; head -c 4 <&3 | wc -c' "$1" 2>/dev/null)
  [[ $bytes == 4 ]]
}
