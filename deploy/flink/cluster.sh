#!/usr/bin/env bash
# A real Flink cluster on this machine, on loopback alone, from what `deploy/install_engines.sh flink` installed:
#   deploy/flink/cluster.sh start                    a JobManager, two TaskManagers with a worker pool each, Beam's job server
#   deploy/flink/cluster.sh jobmanager | taskmanager N | pool N [FLAGS] | jobserver      one of them; N from 1
#   deploy/flink/cluster.sh stop
# Environment: ENGINES (.engines), RUN (.engines/run/flink: configuration, logs, process ids), PYTHON (.venv/bin/python),
# REST_PORT 8081, RPC_PORT 6123, JOB_PORT 8099, POOL_PORT 50000. Linux, as pools need 127.0.0.2 and so on. All listen on
# loopback but Beam's job server, which listens on every interface whatever it is told: not for a machine in the open.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
engines=${ENGINES:-$root/.engines}
run=${RUN:-$engines/run/flink}
python=${PYTHON:-$root/.venv/bin/python}
rest_port=${REST_PORT:-8081} rpc_port=${RPC_PORT:-6123} job_port=${JOB_PORT:-8099} pool_port=${POOL_PORT:-50000}
flink=$engines/flink

configure() {
  mkdir -p "$run/conf" "$run/log" "$run/tmp"
  sed -e "s/REST_PORT/$rest_port/" -e "s/RPC_PORT/$rpc_port/" -e "s|TMP_DIRS|$run/tmp|" \
    "$here/config.yaml" >"$run/conf/config.yaml"
  cp "$here/log4j.properties" "$run/conf/"
}

# started NAME COMMAND…: in the background, its log and process id under $run.
started() {
  local name=$1
  shift
  nohup "$@" >>"$run/log/$name.log" 2>&1 </dev/null &
  echo $! >"$run/$name.pid"
}

# answers PORT NAME [HOST]: waits until something listens, unless the process has ended.
answers() {
  local port=$1 name=$2 host=${3:-127.0.0.1}
  for _ in $(seq 600); do
    (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null && return
    kill -0 "$(cat "$run/$name.pid")" 2>/dev/null || break
    sleep 0.1
  done
  echo "$name does not answer at $host:$port; see $run/log/$name.log" >&2
  exit 1
}

java_on_loopback() { # Java 17 needs to be told what Flink looks into; its own start scripts do the same
  local opens=(--add-exports=java.base/sun.net.util=ALL-UNNAMED --add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED
    --add-exports=jdk.compiler/com.sun.tools.javac.api=ALL-UNNAMED --add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED)
  for package in java.lang java.net java.io java.nio sun.nio.ch java.lang.reflect java.text java.time java.util \
    java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks; do
    opens+=("--add-opens=java.base/$package=ALL-UNNAMED")
  done
  java_command=(java "${opens[@]}" "-Dlog4j.configurationFile=$run/conf/log4j.properties" -cp "$(printf '%s:' "$flink"/lib/*.jar)$flink/bin/bash-java-utils.jar")
}

jobmanager() {
  started jobmanager "${java_command[@]:0:1}" -Xmx700m "${java_command[@]:1}" \
    org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint --configDir "$run/conf"
  answers "$rest_port" jobmanager
}

# A TaskManager finds its pool under the one name that a job gives for all of them: each has a hosts file of its own.
taskmanager() {
  local hosts=$run/conf/hosts-$1
  printf '127.0.0.1 localhost %s\n127.0.0.%d worker-pool\n' "$(hostname)" $(($1 + 1)) >"$hosts"
  local found memory dynamic
  found=$("${java_command[@]}" org.apache.flink.runtime.util.bash.BashJavaUtils GET_TM_RESOURCE_PARAMS \
    --configDir "$run/conf" 2>/dev/null | sed -n 's/^.*BASH_JAVA_UTILS_EXEC_RESULT://p')
  read -ra memory <<<"$(sed -n 1p <<<"$found")"
  read -ra dynamic <<<"$(sed -n 2p <<<"$found")"
  started "taskmanager$1" "${java_command[@]:0:1}" "${memory[@]}" "-Djdk.net.hosts.file=$hosts" "${java_command[@]:1}" \
    org.apache.flink.runtime.taskexecutor.TaskManagerRunner --configDir "$run/conf" "${dynamic[@]}"
}

pool() {
  local host=127.0.0.$(($1 + 1))
  started "pool$1" "$python" "$here/worker_pool.py" --host "$host" --service_port "$pool_port" "${@:2}"
  answers "$pool_port" "pool$1" "$host"
}

jobserver() {
  started jobserver java -Xmx512m -jar "$engines/flink-job-server.jar" --flink-master "localhost:$rest_port" \
    --job-port "$job_port" --artifact-port 0 --expansion-port -1 --artifacts-dir "$run/tmp/artifacts"
  answers "$job_port" jobserver
}

start() {
  jobmanager
  for n in 1 2; do taskmanager "$n" && pool "$n"; done
  jobserver
  echo "Flink's screen: http://localhost:$rest_port; logs: $run/log. Submit with"
  echo "  --runner=PortableRunner --job_endpoint=localhost:$job_port --parallelism=2 \\"
  echo "  --environment_type=EXTERNAL --environment_config=worker-pool:$pool_port --environment_cache_millis=60000"
}

stop() {
  for file in "$run"/*.pid; do
    [ -e "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || true
  done
  for file in "$run"/*.pid; do
    [ -e "$file" ] || continue
    for _ in $(seq 100); do kill -0 "$(cat "$file")" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$(cat "$file")" 2>/dev/null || true
    rm "$file"
  done
}

case ${1:-} in
  start | jobmanager | jobserver | stop) ;;
  taskmanager | pool) [[ ${2:-} =~ ^[1-9]$ ]] || { echo "$1 N: a number from 1 to 9" >&2; exit 2; } ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
if [ "$1" != stop ]; then
  [ -d "$flink" ] && [ -e "$engines/flink-job-server.jar" ] || { echo "no Flink in $engines: run deploy/install_engines.sh flink" >&2; exit 1; }
  configure
  java_on_loopback
fi
"$@"
