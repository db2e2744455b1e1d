#!/bin/sh
# A database server of its own: PostgreSQL with the accounts of pgbench, which worked on them for a while.
set -eu
systemctl start postgresql
until pg_isready -q; do sleep 0.5; done
cd /
bench=/usr/lib/postgresql/15/bin/pgbench
runuser -u postgres -- createdb bench
runuser -u postgres -- "$bench" -i -q -s 5 bench
runuser -u postgres -- "$bench" -n -c 4 -t 60 bench | grep tps
runuser -u postgres -- psql -At bench -c "select count(*), sum(abalance) from pgbench_accounts"
free -m
