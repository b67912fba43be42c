#!/usr/bin/env bash
# Puts engines for one machine into .engines, which git ignores, each once and each from its own package registry:
#   deploy/install_engines.sh flink prism spark
# flink: the jars of Flink (from PyPI) and Beam's job server for them (made by Maven, 2 to 5 minutes); needs Java 11 or 17, mvn
# spark: Beam's job server with Spark 3.5 in it, likewise by Maven
# prism: Beam's own small runner; needs Go
# ENGINES names another folder. Nothing is installed into a Python environment.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
engines=${ENGINES:-$here/../.engines}
flink_version=1.19.3
beam_version=2.77.0 # of prism: the version of the Python package
mkdir -p "$engines"
engines=$(cd "$engines" && pwd)

need() { command -v "$1" >/dev/null || { echo "$1 is not installed; $2 needs it" >&2; exit 1; }; }

install_flink() {
  need java flink && need mvn flink
  if [ ! -d "$engines/flink" ]; then
    unpacked=$(mktemp -d "$engines/flink.XXXXXX")
    # A source package that holds the jars as they are: downloaded, not installed.
    python3 -m pip download --quiet --no-deps --dest "$unpacked" "apache-flink-libraries==$flink_version"
    tar -xzf "$unpacked"/*.tar.gz -C "$unpacked" --strip-components=2 --wildcards '*/deps/lib' '*/deps/bin' '*/deps/plugins'
    rm "$unpacked"/*.tar.gz
    mv "$unpacked" "$engines/flink" # whole or not at all
  fi
  job_server flink
}

install_spark() {
  need java spark && need mvn spark
  job_server spark
}

job_server() {
  local name=$1-job-server
  [ ! -e "$engines/$name.jar" ] || return 0
  mvn --quiet --batch-mode --file "$here/$1/job-server-pom.xml" -Dengines="$engines" package
  mv "$engines/$name-build/$name.jar" "$engines/$name.jar" # whole or not at all
  rm -r "$engines/$name-build"
}

install_prism() {
  need go prism
  [ -x "$engines/prism" ] || GOBIN=$engines go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$beam_version"
}

[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for engine in "$@"; do
  case $engine in
    flink | prism | spark) "install_$engine" ;;
    *) echo "$engine: not one of flink, prism, spark" >&2; exit 2 ;;
  esac
done
