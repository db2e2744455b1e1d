#!/bin/sh
# A database server: PostgreSQL with ten connections at work, redis with the sessions of web users, snapshot and dump.
# The connections stay open, as those of an application's pool do.
set -eu
cd /root
systemctl start redis-server postgresql
until redis-cli ping >/dev/null 2>&1; do sleep 0.5; done
until pg_isready -q; do sleep 0.5; done
runuser -u postgres -- createuser -s root
createdb -T template0 -E UTF8 --locale=C.UTF-8 shop

cat >/root/fill_redis.py <<'PY'
import json, random, sys
random.seed(3)
cities = ("Lyon", "Porto", "Graz", "Turku", "Gdansk", "Leeds")
agents = ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)", "curl/7.88.1",
          "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15")
out = sys.stdout.buffer
def send(*words):
    encoded = [word.encode() for word in words]
    out.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
for user in range(50000):
    session = {"id": user, "name": f"user{user}", "city": random.choice(cities), "token": f"{random.getrandbits(128):032x}",
               "cart": [{"article": random.randrange(3000), "count": random.randrange(1, 9)} for _ in range(random.randrange(7))],
               "seen": 1700000000 + random.randrange(10**6), "agent": random.choice(agents)}
    send("SET", f"session:{user}", json.dumps(session), "EX", str(random.randrange(3600, 86400)))
    if user % 4 == 0:
        send("HSET", f"user:{user}", "name", f"user{user}", "city", session["city"], "score", str(random.randrange(1000)))
    if user % 9 == 0:
        send("ZADD", "ranking", str(random.random() * 1000), f"user{user}")
PY
python3 /root/fill_redis.py | redis-cli --pipe | tail -n 1

cat >/root/rows.py <<'PY'
import datetime, pathlib, random, sys
random.seed(4)
rows = random.Random(4)
first = ("Anna", "Bert", "Carla", "Dmitri", "Eve", "Farid", "Grace", "Heinz", "Ines", "Jan", "Kaja", "Lars")
last = ("Arnaud", "Berg", "Costa", "Dvorak", "Eriksen", "Fischer", "Garcia", "Huber", "Ivanov", "Janssen", "Kowalski")
cities = ("Lyon", "Porto", "Graz", "Turku", "Gdansk", "Leeds", "Bergen", "Ghent")
words = pathlib.Path("/usr/share/perl/5.36/perl5db.pl").read_text().split()[:20000]
words = [word for word in words if word.isalpha()]
day = datetime.datetime(2024, 1, 1)
table = sys.argv[1]
if table == "customers":
    for n in range(20000):
        a, b = rows.choice(first), rows.choice(last)
        print(n, f"{a} {b}", f"{a}.{b}.{n}@example.org".lower(), f"{b}street {rows.randrange(200)}", rows.choice(cities), sep="\t")
elif table == "articles":
    for n in range(3000):
        print(n, f"{rows.choice(words)} {rows.choice(words)}", rows.randrange(100, 90000), rows.randrange(500), " ".join(rows.choices(words, k=40)), sep="\t")
else:
    for n in range(110000):
        print(n, rows.randrange(20000), rows.randrange(3000), rows.randrange(1, 9),
              day + datetime.timedelta(seconds=n * 280 + rows.randrange(280)), rows.choice(("open", "paid", "sent", "sent", "sent")), sep="\t")
PY
psql -q shop <<'SQL'
create table customers (id int primary key, name text, email text unique, street text, city text);
create table articles (id int primary key, name text, cents int, stock int, description text);
create table orders (id bigserial primary key, customer int references customers, article int references articles,
                     count int, placed timestamp, state text, note text);
create table events (id bigserial primary key, at timestamptz default now(), backend int default pg_backend_pid(), what text);
\copy customers from program 'python3 /root/rows.py customers'
\copy articles from program 'python3 /root/rows.py articles'
alter table orders disable trigger all;
\copy orders (id, customer, article, count, placed, state) from program 'python3 /root/rows.py orders'
alter table orders enable trigger all;
create index on orders (customer, placed);
create index on orders (article);
select setval('orders_id_seq', 110000);
vacuum analyze;
SQL

cat >/root/backend.py <<'PY'
"""Ten psql sessions at work by turns, redis beside them; says so when the work is done, and keeps the sessions."""
import pathlib, random, signal, subprocess
random.seed(5)
pool = [subprocess.Popen(["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "shop"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(10)]

def transaction():
    customer, article, count = random.randrange(20000), random.randrange(3000), random.randrange(1, 6)
    what = random.random()
    if what < 0.45:
        return (f"begin; update articles set stock = stock - {count} where id = {article};"
                f" insert into orders (customer, article, count, placed, state) values ({customer}, {article}, {count}, now(), 'open');"
                f" insert into events (what) values ('order of {count} by {customer}'); commit;")
    if what < 0.65:
        return f"update orders set state = 'paid', note = 'invoice {customer}-{article}' where customer = {customer} and state = 'open';"
    if what < 0.9:
        return (f"select o.id, a.name, o.count * a.cents, o.placed from orders o join articles a on a.id = o.article"
                f" where o.customer = {customer} order by o.placed desc limit 20;")
    if what < 0.97:
        return f"select c.city, count(*) from orders o join customers c on c.id = o.customer where o.article = {article} group by 1 order by 2;"
    return f"select c.name, c.email, count(*) n from customers c join orders o on o.customer = c.id where c.city = 'Graz' and o.article % 50 = {article % 50} group by 1, 2 order by n desc limit 10;"

answered = 0
for turn in range(30):
    for session in pool:
        session.stdin.write("".join(transaction() + "\n" for _ in range(4)) + "\\echo @@done\n")
        session.stdin.flush()
    for session in pool:
        for line in session.stdout:
            if line == "@@done\n":
                break
            answered += 1
        else:
            raise SystemExit("a psql session ended")
    subprocess.run(["redis-cli", "--pipe"], text=True, stdout=subprocess.DEVNULL, check=True, input="".join(
        f"HINCRBY user:{random.randrange(12500) * 4} score 1\r\nZINCRBY ranking 1 user{random.randrange(50000)}\r\n"
        f"GET session:{random.randrange(50000)}\r\nEXPIRE session:{random.randrange(50000)} 7200\r\n" for _ in range(50)))
pathlib.Path("/run/backend.done").write_text(f"{answered} lines answered\n")
signal.pause()
PY
redis-cli bgsave
python3 /root/backend.py >/var/log/backend.log 2>&1 &
backend=$!
until [ -e /run/backend.done ]; do kill -0 "$backend" || { cat /var/log/backend.log; exit 1; }; sleep 1; done
cat /run/backend.done
psql -At shop -c "select city, sum(o.count * a.cents), count(*) from orders o join customers c on c.id = o.customer join articles a on a.id = o.article group by 1 order by 2 desc limit 2"
pg_dump shop | gzip -1 >/var/lib/shop.sql.gz
redis-cli bgsave
while [ "$(redis-cli info persistence | tr -d '\r' | sed -n 's/rdb_bgsave_in_progress://p')" != 0 ]; do sleep 1; done
redis-cli info memory | tr -d '\r' | grep used_memory_human
psql -At shop -c 'select count(*) from pg_stat_activity where client_port is not null'
free -m
