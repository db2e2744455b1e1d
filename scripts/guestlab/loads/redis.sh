#!/bin/sh
# A cache of its own: redis with the baskets of a shop's visitors, a queue, and some pages that were rendered.
set -eu
systemctl start redis-server
until redis-cli ping >/dev/null 2>&1; do sleep 0.5; done
python3 - <<'PY' | redis-cli --pipe | tail -n 1
import hashlib, random, sys
random.seed(11)
streets = ("Harbour Road", "Mill Lane", "Station Street", "Church Walk", "High Street", "Orchard Close")
def send(*words):
    raw = [str(word).encode() for word in words]
    sys.stdout.buffer.write(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw))
for n in range(40000):
    items = ";".join(f"{random.randrange(9000)}x{random.randrange(1, 5)}" for _ in range(random.randrange(1, 12)))
    address = f"{random.randrange(1, 300)} {random.choice(streets)}"
    send("SET", f"basket:{n}", f"visitor={hashlib.sha1(str(n).encode()).hexdigest()} address={address} items={items}")
    if n % 5 == 0:
        send("LPUSH", "queue", f"mail {n} {random.choice(streets)} {random.random()}")
    if n % 40 == 0:
        rows = "".join(f"<tr><td>{k}</td><td>{random.choice(streets)}</td></tr>" for k in range(random.randrange(20, 120)))
        send("SET", f"page:{n}", f"<html><body><table>{rows}</table></body></html>")
PY
redis-benchmark -q -t get,set,lpush -n 2000 -r 20000
redis-cli info memory | tr -d '\r' | grep used_memory_human
free -m
