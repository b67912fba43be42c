#!/usr/bin/env bash
# Installs what the tests marked `deploy` need and is no package of theirs: Airflow in an environment of its own, as its
# pins are not ours, and the Flink operator's definitions out of its own jar. What is there is left as it is.
# The rest is in extras: pip install -c deploy/constraints.txt -e '.[dataflow,deploy]'
set -euo pipefail
cd "$(dirname "$0")"
operator=1.10.0

tools="${XDG_CACHE_HOME:-$HOME/.cache}/embedding-jobs/deploy"
mkdir -p "$tools"

pins=$(sha256sum airflow.txt | cut -c1-12)
if [ ! -e "$tools/airflow-$pins/complete" ]; then
  python3 -m venv --clear "$tools/airflow-$pins"
  "$tools/airflow-$pins/bin/python" -m pip install --quiet --no-deps --no-compile --requirement airflow.txt
  touch "$tools/airflow-$pins/complete"
fi
ln -sfn "airflow-$pins" "$tools/airflow"

crd=META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml
if [ ! -e "$tools/flink-operator-$operator.yaml" ]; then
  mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
    -Dartifact="org.apache.flink:flink-kubernetes-operator-api:$operator" -DoutputDirectory="$tools" -Dmdep.stripVersion
  python3 -m zipfile -e "$tools/flink-kubernetes-operator-api.jar" "$tools/operator"
  mv "$tools/operator/$crd" "$tools/flink-operator-$operator.yaml"
  rm -r "$tools/operator" "$tools/flink-kubernetes-operator-api.jar"
fi
ln -sfn "flink-operator-$operator.yaml" "$tools/flink-operator.yaml"
echo "tools for tests of deploy/ are in $tools"
