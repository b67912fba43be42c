#!/usr/bin/env bash
# Installs what the tests marked `deploy` and `dataflow` need, into the virtual environment that is given (.venv): Beam's
# Dataflow client, hadolint and Kubernetes' schemas. Airflow gets an environment of its own, as its pins are not ours, and
# the Flink operator's definitions come out of its own jar. What is there is left as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
airflow=3.3.2 beam_provider=6.3.1 google_provider=22.8.0 operator=1.10.0

python=${1:-.venv}/bin/python
tools="${XDG_CACHE_HOME:-$HOME/.cache}/embedding-jobs/deploy"
mkdir -p "$tools"

"$python" -m pip install --quiet -c deploy/constraints.txt -e '.[dataflow,deploy]'

if [ ! -e "$tools/airflow-$airflow-$beam_provider/complete" ]; then
  "$python" -m venv --clear "$tools/airflow-$airflow-$beam_provider"
  "$tools/airflow-$airflow-$beam_provider/bin/python" -m pip install --quiet "apache-airflow==$airflow" \
    "apache-airflow-providers-apache-beam==$beam_provider" "apache-airflow-providers-google==$google_provider"
  touch "$tools/airflow-$airflow-$beam_provider/complete"
fi
ln -sfn "airflow-$airflow-$beam_provider" "$tools/airflow"

crd=META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml
if [ ! -e "$tools/flink-operator-$operator.yaml" ]; then
  mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
    -Dartifact="org.apache.flink:flink-kubernetes-operator-api:$operator" -DoutputDirectory="$tools" -Dmdep.stripVersion
  "$python" -m zipfile -e "$tools/flink-kubernetes-operator-api.jar" "$tools/operator"
  mv "$tools/operator/$crd" "$tools/flink-operator-$operator.yaml"
  rm -r "$tools/operator" "$tools/flink-kubernetes-operator-api.jar"
fi
ln -sfn "flink-operator-$operator.yaml" "$tools/flink-operator.yaml"
echo "tools for tests of deploy/ are in $tools"
