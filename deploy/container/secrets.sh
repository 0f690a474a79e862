#!/bin/sh
# Makes what deploy/container/compose.yaml needs to be secret, in deploy/container/secrets/: passwords nobody has chosen,
# and the addresses that hold them. What is there already is left. A platform's credentials go into compose.env.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
# The container's user reads them; nobody but you gets into the folder.
for name in superuser owner api workers; do
    [ -s "secrets/password_$name" ] || openssl rand -hex 24 >"secrets/password_$name"
done
[ -s secrets/flower ] || echo "rollcall:$(openssl rand -hex 16)" >secrets/flower
for pair in owner:migrator api:api workers:workers; do
    echo "postgresql://rollcall_${pair#*:}:$(cat "secrets/password_${pair%:*}")@postgres/rollcall" \
        >"secrets/database_url_${pair%:*}"
done
chmod 0444 secrets/*
[ -e compose.env ] || : >compose.env
