#!/bin/sh
# A log collector: lines go through rsyslog and journald, are searched, counted, rotated and compressed.
set -eu
python3 - <<'PY'
import random, syslog
random.seed(5)
verbs = ("accepted", "refused", "closed", "retried", "delivered", "deferred")
syslog.openlog("collector", syslog.LOG_PID, syslog.LOG_MAIL)
for line in range(25000):
    syslog.syslog(f"message {line} {random.choice(verbs)} for user{random.randrange(3000)}@example.org "
                  f"via relay{random.randrange(40)}.example.net size={random.randrange(300, 90000)} delay={random.random():.2f}")
PY
mkdir -p /srv/logs
python3 - <<'PY'
import random
random.seed(6)
paths = [f"/shop/article/{random.randrange(5000)}" for _ in range(900)] + ["/", "/cart", "/login", "/static/app.js"]
agents = ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)", "curl/8.5.0")
for day in range(8):
    with open(f"/srv/logs/access-{day}.log", "w") as log:
        for second in range(60000):
            log.write(f"10.{day}.{random.randrange(256)}.{random.randrange(256)} - - [{day + 1:02}/Mar/2024:"
                      f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02} +0000] \"GET {random.choice(paths)} "
                      f"HTTP/1.1\" {random.choice((200, 200, 200, 304, 404))} {random.randrange(200, 40000)} \"{random.choice(agents)}\"\n")
PY
cut -d' ' -f7 /srv/logs/access-*.log | sort -S 48M | uniq -c | sort -rn | head -n 3
perl -ne '$hits{$1}++ if / (\d{3}) \d+ "/; END { print "$_ $hits{$_}\n" for sort keys %hits }' /srv/logs/access-*.log
perl -e 'my %seen; while (<>) { my ($who, $what) = (split)[0, 6]; $seen{$who}{$what}++ } print scalar(keys %seen), " clients\n"' \
    /srv/logs/access-0.log /srv/logs/access-1.log /srv/logs/access-2.log
for day in 0 1 2 3; do gzip -1 -k "/srv/logs/access-$day.log"; done
grep -c deferred /var/log/mail.log
journalctl -q -t collector | wc -l
logrotate -f /etc/logrotate.conf
