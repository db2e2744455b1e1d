#!/bin/sh
# A web shop: nginx in front of five gunicorn workers that run a Flask application on SQLite, static pages, a few
# pictures, and clients that look around, log in, order and call the JSON interface.
set -eu
site=/var/www/html
shop=/srv/shop
mkdir -p "$site/pages" "$site/pictures" "$shop/templates"

cat >/etc/nginx/sites-enabled/default <<'CONF'
upstream shop { server unix:/run/shop.sock; }
server {
    listen 127.0.0.1:80 default_server;
    root /var/www/html;
    gzip on;
    gzip_types text/plain application/json;
    open_file_cache max=2000 inactive=60s;
    location /shop/ { proxy_pass http://shop; proxy_set_header Host $host; }
}
CONF
cat >/etc/systemd/system/shop.service <<'CONF'
[Unit]
Description=The shop
[Service]
WorkingDirectory=/srv/shop
ExecStart=/usr/bin/gunicorn --workers 5 --timeout 300 --bind unix:/run/shop.sock --access-logfile /var/log/shop.log shop:app
CONF

cat >"$shop/templates/base.html" <<'HTML'
<!DOCTYPE html>
<html><head><title>{% block title %}Shop{% endblock %}</title><link rel="stylesheet" href="/style.css"></head>
<body><nav><a href="/shop/">Start</a> {% for city in cities %}<a href="/shop/city/{{ city }}">{{ city }}</a> {% endfor %}
{% if user %}Hello {{ user }}, <a href="/shop/orders">your orders</a>{% else %}<a href="/shop/login">Log in</a>{% endif %}
</nav>{% block content %}{% endblock %}<footer>{{ count }} articles</footer></body></html>
HTML
cat >"$shop/templates/list.html" <<'HTML'
{% extends "base.html" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}<h1>{{ title }}</h1><table>{% for article in articles %}
<tr class="{{ loop.cycle('odd', 'even') }}"><td><a href="/shop/article/{{ article.id }}">{{ article.name }}</a></td>
<td>{{ "%.2f"|format(article.price) }} EUR</td><td>{{ article.stock }} in {{ article.city }}</td>
<td>{{ article.text|truncate(120) }}</td></tr>{% else %}<tr><td>Nothing found</td></tr>{% endfor %}</table>{% endblock %}
HTML
cat >"$shop/templates/article.html" <<'HTML'
{% extends "base.html" %}
{% block title %}{{ article.name }}{% endblock %}
{% block content %}<h1>{{ article.name }}</h1><img src="/pictures/{{ "%03d"|format(article.id % 35) }}.jpg">
<p>{{ article.text }}</p><p>{{ "%.2f"|format(article.price) }} EUR, {{ article.stock }} in {{ article.city }}</p>
<form method="post" action="/shop/order/{{ article.id }}"><input name="count" value="1"><button>Order</button></form>
<h2>Others bought</h2><ul>{% for other in others %}<li>{{ other.name }}</li>{% endfor %}</ul>{% endblock %}
HTML
cat >"$shop/templates/orders.html" <<'HTML'
{% extends "base.html" %}
{% block content %}<table>{% for order in orders %}<tr><td>{{ order.id }}</td><td>{{ order.name }}</td>
<td>{{ order.count }}</td><td>{{ order.placed }}</td></tr>{% endfor %}</table>{% endblock %}
HTML

cat >"$shop/shop.py" <<'PY'
"""The shop. Every worker keeps the catalogue, a word index, rendered pages and the sessions it has seen."""
import collections, functools, json, os, re, secrets, sqlite3, time
from flask import Flask, abort, jsonify, redirect, render_template, request, session

app = Flask(__name__)
app.secret_key = "not a secret"
catalogue = {article["id"]: article for article in json.load(open("/srv/shop/catalogue.json"))}
cities = sorted({article["city"] for article in catalogue.values()})
words = collections.defaultdict(list)
for article in catalogue.values():
    for word in set(re.findall(r"[a-z]{5,}", article["text"].lower())):
        words[word].append(article["id"])
database = sqlite3.connect("/srv/shop/shop.sqlite", timeout=60, isolation_level=None)
database.row_factory = sqlite3.Row
database.execute("pragma synchronous = normal")
seen = {}

def page(name, **values):
    return render_template(name, cities=cities, count=len(catalogue), user=session.get("user"), **values)

@app.before_request
def visit():
    key = session.setdefault("key", secrets.token_hex(16))
    record = seen.setdefault(key, {"since": time.time(), "user": None, "agent": str(request.user_agent), "history": []})
    record["user"] = session.get("user")
    record["history"].append({"path": request.path, "at": time.time(), "address": request.remote_addr})

@functools.lru_cache(maxsize=600)
def listing(title, ids):
    return [catalogue[number] for number in ids][:60]

@app.get("/shop/")
def start():
    return page("list.html", title="Start", articles=listing("Start", tuple(range(0, 3000, 50))))

@app.get("/shop/city/<city>")
def city(city):
    return page("list.html", title=city, articles=listing(city, tuple(a["id"] for a in catalogue.values() if a["city"] == city)))

@app.get("/shop/search")
def search():
    found = tuple(words.get(request.args["q"].lower(), ()))
    return page("list.html", title=request.args["q"], articles=listing(request.args["q"], found))

@app.get("/shop/article/<int:number>")
def article(number):
    if number not in catalogue:
        abort(404)
    rows = database.execute("select o2.article, count(*) n from orders o1 join orders o2 using (customer) "
                            "where o1.article = ? group by 1 order by n desc limit 5", (number,)).fetchall()
    return page("article.html", article=catalogue[number], others=[catalogue[row["article"]] for row in rows])

@app.post("/shop/login")
def login():
    session["user"] = request.form["user"]
    database.execute("insert into logins (customer, agent, at) values (?, ?, ?)",
                     (session["user"], str(request.user_agent), time.time()))
    return redirect("/shop/")

@app.post("/shop/order/<int:number>")
def order(number):
    database.execute("insert into orders (customer, article, count, placed) values (?, ?, ?, datetime())",
                     (session.get("user", "guest"), number, int(request.form["count"])))
    return redirect("/shop/orders")

@app.get("/shop/orders")
def orders():
    rows = database.execute("select id, article, count, placed from orders where customer = ? order by id desc limit 40",
                            (session.get("user", "guest"),)).fetchall()
    return page("orders.html", orders=[{**dict(row), "name": catalogue[row["article"]]["name"]} for row in rows])

@app.get("/shop/api/articles")
def api_articles():
    first = int(request.args.get("from", 0))
    return jsonify(articles=[catalogue[n] for n in range(first, min(first + 100, len(catalogue)))], worker=os.getpid())

@app.get("/shop/api/sales")
def api_sales():
    rows = database.execute("select article, count(*) orders, sum(count) sold from orders group by 1 order by 3 desc limit 200")
    return jsonify([dict(row) for row in rows])
PY

python3 - <<'PY'
import gzip, html, json, os, pathlib, random, re, sqlite3
random.seed(1)
site, shop = pathlib.Path("/var/www/html"), pathlib.Path("/srv/shop")
paragraphs, number = [], 0
for folder in ("/usr/share/man/man1", "/usr/share/man/man5", "/usr/share/man/man8", "/usr/share/doc"):
    for path in sorted(pathlib.Path(folder).rglob("*"))[:500]:
        if number >= 900 or not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data[:60_000].decode("utf-8", "replace")
        body = f"<!DOCTYPE html><html><head><title>{path}</title></head><body><pre>{html.escape(text)}</pre></body></html>\n"
        (site / "pages" / f"{number:05}.html").write_text(body)
        number += 1
        lines = [line for line in text.split("\n") if line[:1].isalpha()]
        paragraphs += [" ".join(lines[at : at + 8]) for at in range(0, len(lines), 8)]
names = sorted(set(re.findall(r"\b[a-z]{5,11}\b", " ".join(paragraphs[:4000]))))
cities = ("Lyon", "Porto", "Graz", "Turku", "Gdansk", "Leeds", "Bergen", "Ghent")
articles = [{"id": n, "name": f"{random.choice(names).title()} {random.choice(names)} {n}", "city": random.choice(cities),
             "price": round(random.random() * 900, 2), "stock": random.randrange(50), "text": random.choice(paragraphs)[:900],
             "tags": random.sample(names, 4)} for n in range(3000)]
(shop / "catalogue.json").write_text(json.dumps(articles))
for picture in range(35):
    (site / "pictures" / f"{picture:03}.jpg").write_bytes(os.urandom(random.randrange(40_000, 300_000)))
(site / "style.css").write_text("body { font: 16px serif } .odd { background: #eee } nav a { margin: 0 1em }\n")
db = sqlite3.connect(shop / "shop.sqlite")
db.execute("pragma journal_mode = wal")
db.execute("create table orders (id integer primary key, customer text, article int, count int, placed text)")
db.execute("create table logins (id integer primary key, customer text, agent text, at real)")
db.executemany("insert into orders (customer, article, count, placed) values (?, ?, ?, ?)",
               ((f"user{random.randrange(4000)}", random.randrange(3000), random.randrange(1, 6),
                 f"2024-{n % 12 + 1:02}-{n % 28 + 1:02} {n % 24:02}:{n % 60:02}:00") for n in range(60000)))
db.execute("create index by_customer on orders (customer)")
db.execute("create index by_article on orders (article)")
db.commit()
PY

systemctl daemon-reload
systemctl start shop nginx
until curl_status=$(python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1/shop/").status)' 2>/dev/null); do sleep 1; done
echo "the shop answers $curl_status"

cat >/root/clients.py <<'PY'
import http.client, json, pathlib, random, sys, threading, urllib.parse, zlib
site = pathlib.Path("/var/www/html")
files = sorted(path for path in site.rglob("*") if path.is_file())
articles = json.loads(pathlib.Path("/srv/shop/catalogue.json").read_text())
terms = [tag for article in articles[:300] for tag in article["tags"]]
agents = ("Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0", "curl/7.88.1",
          "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15")
failed = []

def client(number, steps):
    chance = random.Random(number)
    def request(method, path, body=None):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 302):
            failed.append((path, answer.status))
        if cookie := answer.getheader("Set-Cookie"):
            headers["Cookie"] = cookie.split(";")[0]
        return data
    for visitor in range(steps):
        connection = http.client.HTTPConnection("127.0.0.1")
        headers = {"User-Agent": chance.choice(agents), "Content-Type": "application/x-www-form-urlencoded"}
        request("GET", "/shop/")
        if chance.random() < 0.5:
            request("POST", "/shop/login", f"user=user{chance.randrange(4000)}")
        for _ in range(chance.randrange(2, 7)):
            what = chance.random()
            article = chance.randrange(len(articles))
            if what < 0.5:
                request("GET", f"/shop/article/{article}")
                request("GET", f"/pictures/{article % 35:03}.jpg")
            elif what < 0.7:
                request("GET", f"/shop/search?q={urllib.parse.quote(chance.choice(terms))}")
            elif what < 0.8:
                request("POST", f"/shop/order/{article}", f"count={chance.randrange(1, 5)}")
                request("GET", "/shop/orders")
            elif what < 0.9:
                request("GET", f"/shop/api/articles?from={article // 100 * 100}")
            else:
                request("GET", "/shop/city/" + chance.choice(articles)["city"])
        path = chance.choice(files)
        if zlib.crc32(request("GET", "/" + str(path.relative_to(site)))) != zlib.crc32(path.read_bytes()):
            failed.append((str(path), "differs"))

threads = [threading.Thread(target=client, args=(number, int(sys.argv[1]))) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if failed:
    raise SystemExit(f"{len(failed)} requests failed, such as {failed[:3]}")
PY
python3 /root/clients.py 18
ab -q -n 600 -c 8 http://127.0.0.1/pages/00001.html | grep 'Requests per second'
ab -q -n 20 -c 4 -H 'Accept-Encoding: gzip' http://127.0.0.1/shop/api/sales | grep 'Requests per second'
wc -l /var/log/shop.log /var/log/nginx/access.log
free -m
