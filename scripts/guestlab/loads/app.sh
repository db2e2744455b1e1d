#!/bin/sh
# A web application in Python: nginx before four gunicorn workers, each with its own gazetteer and a cache of pages.
set -eu
mkdir -p /srv/app
cat >/srv/app/app.py <<'PY'
"""Pages about places that do not exist; each worker keeps all places, an index of them and the pages it has made."""
import collections, functools, random
from flask import Flask, jsonify, render_template_string
chance = random.Random(12)
starts, ends = ("Ald", "Bren", "Cor", "Dun", "Ess", "Far", "Gren", "Hol"), ("burg", "ton", "ham", "stead", "wick", "by")
places = [{"id": n, "name": chance.choice(starts) + chance.choice(ends), "people": chance.randrange(200, 90000),
           "at": (chance.uniform(-60, 60), chance.uniform(-180, 180)), "roads": chance.sample(range(12000), 5),
           "text": " ".join(chance.choice(starts).lower() + chance.choice(ends) for _ in range(40))} for n in range(12000)]
by_name = collections.defaultdict(list)
for place in places:
    by_name[place["name"]].append(place["id"])
PAGE = """<html><head><title>{{ place.name }}</title></head><body><h1>{{ place.name }}</h1><p>{{ place.text }}</p>
<ul>{% for road in place.roads %}<li>{{ places[road].name }}: {{ places[road].people }}</li>{% endfor %}</ul>
<p>{{ same|length }} others bear that name: {% for other in same[:50] %}{{ other }} {% endfor %}</p></body></html>"""
app = Flask(__name__)

@app.get("/page/<int:number>")
@functools.lru_cache(maxsize=2000)
def page(number):
    place = places[number % len(places)]
    return render_template_string(PAGE, place=place, places=places, same=by_name[place["name"]])

@app.get("/near/<int:number>")
def near(number):
    x, y = places[number % len(places)]["at"]
    found = sorted(places, key=lambda place: (place["at"][0] - x) ** 2 + (place["at"][1] - y) ** 2)[:20]
    return jsonify([place["name"] for place in found])
PY
cat >/etc/nginx/sites-enabled/default <<'CONF'
server {
    listen 127.0.0.1:80 default_server;
    root /usr/share;
    location /page/ { proxy_pass http://127.0.0.1:8000; }
    location /near/ { proxy_pass http://127.0.0.1:8000; }
}
CONF
systemctl start nginx
cd /srv/app
gunicorn --workers 4 --timeout 300 --bind 127.0.0.1:8000 --daemon app:app
until python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8000/page/1")' 2>/dev/null; do sleep 1; done
for page in 3 71 112 345 1711 4242 9001; do
    ab -q -n 20 -c 4 "http://127.0.0.1/page/$page" | grep 'Requests per second'
done
ab -q -n 20 -c 4 http://127.0.0.1/near/7 | grep 'Requests per second'
for page in perl/5.36/perl5db.pl common-licenses/GPL-3; do
    ab -q -n 30 -c 3 "http://127.0.0.1/$page" | grep 'Requests per second'
done
free -m
