# shellcheck shell=bash disable=SC2034,SC2154 # sourced by deploy/dev/parts.sh, which declares the rows
# The search engine: Elasticsearch, laid out from its jars.
ORDER[search]=50
OPTIONAL[search]=yes
PORT[search]=19200
PORT[search-nodes]=19300
VARIABLE[search]=TWH_SEARCH_URL
ADDRESS[search]=http://127.0.0.1:@PORT@
DEFAULT_PORT[search]=80
NEEDS[search]="javac curl"
JARS[search]=yes

version_search() { sed -n 's/.* elasticsearch-\([0-9.]*\)\.jar/\1/p' "$DEPLOY/search/jars.sha256"; }
marker_search() { echo "SearchNode $HOME_DIR/search"; }
download_search() { copy_jars "$DEPLOY/search/pom.xml" "$1"; }

launch_search() {
  local home=$HOME_DIR/search javac
  fetch_artefacts search
  javac=$(javac_bin)
  lay_out_search "$home" "$ARTEFACTS/search"
  "$javac" -cp "$home/lib/*" -d "$home/classes" "$DEPLOY/search/SearchNode.java" ||
    die "deploy/search/SearchNode.java does not compile"
  # shellcheck disable=SC2086 # options are words
  spawn search "${javac%c}" ${TWH_DEV_JVM_OPTIONS:-} -Xms512m -Xmx"$(tenth_of_memory 512)m" -XX:+UseSerialGC "-Des.path.home=$home" \
    -Des.distribution.type=tar -Djava.security.manager=allow -Dlog4j2.disable.jmx=true \
    "-Dlog4j2.configurationFile=$home/config/log4j2.properties" -cp "$home/classes:$home/lib/*" \
    SearchNode "$home" "$(port_of search)" "$(port_of search-nodes)"
}

# lay_out_search HOME JARS: again each time; only the data stays.
lay_out_search() {
  local home=$1 jars=$2 module=$1/modules/transport-netty4
  rm -rf "${home:?}"/{modules,config,classes,lib}
  mkdir -p "$module" "$home/config" "$home/classes" "$home/lib" "$home/logs"
  ln -s "$jars"/netty-*.jar "$jars"/transport-netty4-*.jar "$module"
  find "$jars" -name '*.jar' ! -name 'netty-*' ! -name 'transport-netty4-*' -exec ln -s {} "$home/lib" \;
  sed "s|@VERSION@|$(version_search)|" "$DEPLOY/search/plugin-descriptor.properties" >"$module/plugin-descriptor.properties"
  cp "$DEPLOY/search/log4j2.properties" "$home/config"
}

# Ready is also having read what the data folder holds.
ready_search() {
  curl -fsS -m 5 -o /dev/null "$(own_address search)/_cluster/health?wait_for_status=yellow&timeout=1s" 2>/dev/null
}
