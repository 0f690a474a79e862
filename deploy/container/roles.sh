#!/bin/sh
# PostgreSQL's image runs this once, in an empty database: the owner and the two roles, with the passwords of their secrets.
set -eu

make_role() {
    psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        -v role="$1" -v password="$(cat "/run/secrets/$2")" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
SQL
}

make_role rollcall_migrator password_owner
make_role rollcall_api password_api
make_role rollcall_workers password_workers
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    -c "CREATE DATABASE rollcall OWNER rollcall_migrator ENCODING 'UTF8' TEMPLATE template0"
