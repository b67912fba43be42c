#!/usr/bin/env bash
# Installs the servers that are no Python packages, for tests of stores: fake-gcs-server (Go, some minutes to build the
# first time) and Azurite (npm). What is there in the right version is left as it is.
set -euo pipefail
fake_gcs_server=v1.56.1
azurite=3.37.0

servers="${XDG_CACHE_HOME:-$HOME/.cache}/embedding-jobs/servers"
mkdir -p "$servers"

if ! go version -m "$servers/fake-gcs-server" 2>/dev/null | grep -q "fake-gcs-server[[:space:]]*$fake_gcs_server"; then
  GOBIN="$servers" go install "github.com/fsouza/fake-gcs-server@$fake_gcs_server"
fi
if [ "$(node -p "require('$servers/node_modules/azurite/package.json').version" 2>/dev/null)" != "$azurite" ]; then
  npm install --prefix "$servers" --no-audit --no-fund --loglevel=error "azurite@$azurite"
fi
echo "servers are in $servers"
