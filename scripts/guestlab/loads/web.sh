#!/bin/sh
# A web server: a site of manual pages, archives and pictures, its log, and clients that fetch all of it.
set -eu
site=/var/www/html
mkdir -p "$site/pages" "$site/data" "$site/pictures"
cat >/etc/nginx/sites-enabled/default <<'CONF'
server {
    listen 127.0.0.1:80 default_server;
    root /var/www/html;
    autoindex on;
    gzip on;
    gzip_types text/plain application/json;
    open_file_cache max=2000 inactive=60s;
}
CONF
python3 - <<'PY'
import gzip, html, json, os, pathlib, random
random.seed(1)
site = pathlib.Path("/var/www/html")
number = 0
for folder in ("/usr/share/man", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3.11"):
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if number >= 1500 or not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = html.escape(data.decode("utf-8", "replace"))
        page = f"<!DOCTYPE html><html><head><title>{path}</title></head><body><pre>{text}</pre></body></html>\n"
        (site / "pages" / f"{number:05}.html").write_text(page)
        number += 1
names = ("anna", "bert", "carla", "dmitri", "eve", "farid", "grace", "heinz")
for part in range(12):
    rows = [{"id": part * 9000 + row, "user": random.choice(names), "price": round(random.random() * 900, 2),
             "stock": random.randrange(50), "title": f"Article {random.randrange(10**6)}"} for row in range(9000)]
    (site / "data" / f"catalogue-{part:02}.json").write_text(json.dumps(rows, indent=1))
for picture in range(250):
    (site / "pictures" / f"{picture:03}.jpg").write_bytes(os.urandom(random.randrange(40_000, 300_000)))
PY
systemctl start nginx
python3 - <<'PY'
import http.client, pathlib, zlib
site = pathlib.Path("/var/www/html")
connection = http.client.HTTPConnection("127.0.0.1")
sums = {}
for round_number in range(2):
    for path in sorted(site.rglob("*")):
        if path.is_file():
            connection.request("GET", "/" + str(path.relative_to(site)))
            body = connection.getresponse().read()
            total = zlib.crc32(body)
            if sums.setdefault(path, total) != total:
                raise SystemExit(f"{path} changed between two requests")
print(len(sums), "files served twice")
PY
ab -q -n 1500 -c 8 http://127.0.0.1/pages/00001.html | grep 'Requests per second'
ab -q -n 400 -c 8 -H 'Accept-Encoding: gzip' http://127.0.0.1/pages/00100.html | grep 'Requests per second'
