#!/bin/sh
# A database server: redis with user sessions and a benchmark, SQLite with indexes and queries, a snapshot.
set -eu
systemctl start redis-server
until redis-cli ping >/dev/null 2>&1; do sleep 0.5; done
python3 - <<'PY' | redis-cli --pipe | tail -1
import json, random, sys
random.seed(3)
cities = ("Lyon", "Porto", "Graz", "Turku", "Gdansk", "Leeds")
out = sys.stdout.buffer
def send(*words):
    encoded = [word.encode() for word in words]
    out.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
for user in range(90000):
    session = {"id": user, "name": f"user{user}", "city": random.choice(cities), "token": f"{random.getrandbits(128):032x}",
               "cart": [{"article": random.randrange(10**6), "count": random.randrange(1, 9)} for _ in range(user % 7)],
               "agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"}
    send("SET", f"session:{user}", json.dumps(session))
    if user % 4 == 0:
        send("HSET", f"user:{user}", "name", f"user{user}", "city", random.choice(cities), "score", str(user % 977))
    if user % 9 == 0:
        send("ZADD", "ranking", str(random.random() * 1000), f"user{user}")
PY
redis-benchmark -q -n 15000 -r 40000 -d 300 -t set,get,lpush,incr | tr '\r' '\n' | grep 'requests per second'
python3 - <<'PY'
import random, sqlite3
random.seed(4)
db = sqlite3.connect("/var/lib/orders.sqlite")
db.execute("pragma cache_size = -48000")
db.execute("create table orders (id integer primary key, customer text, city text, cents integer, day text, note text)")
rows = ((i, f"customer {random.randrange(20000)}", random.choice(("Lyon", "Porto", "Graz", "Turku")),
         random.randrange(100, 99999), f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}", f"deliver to door {i % 500}, ring twice")
        for i in range(250000))
db.executemany("insert into orders values (?, ?, ?, ?, ?, ?)", rows)
db.execute("create index by_customer on orders (customer, day)")
db.execute("create index by_city on orders (city, cents)")
db.commit()
for query in ("select city, sum(cents), count(*) from orders group by city",
              "select customer, sum(cents) from orders group by customer order by 2 desc limit 3",
              "select day, avg(cents) from orders group by day order by 1 limit 3"):
    print(db.execute(query).fetchall()[:2])
db.close()
PY
redis-cli bgsave
while [ "$(redis-cli info persistence | tr -d '\r' | sed -n 's/rdb_bgsave_in_progress://p')" != 0 ]; do sleep 1; done
gzip -1 -c /var/lib/orders.sqlite >/var/lib/orders.backup.gz
redis-cli info memory | tr -d '\r' | grep used_memory_human
