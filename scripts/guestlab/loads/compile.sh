#!/bin/sh
# A build machine: C programs are generated, committed, compiled with debug information, run and archived.
set -eu
mkdir -p /root/project/src
cd /root/project
python3 - <<'PY'
import pathlib, random
random.seed(2)
for unit in range(16):
    lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", "#include <math.h>",
             "#include <pthread.h>", "#include <sys/socket.h>", "#include <time.h>"]
    for number in range(60):
        a, b, c = (random.randrange(2, 9999) for _ in range(3))
        lines += [f"struct record_{number} {{ int key; double value[{a % 30 + 1}]; char name[{b % 60 + 4}]; }};",
                  f"static long step_{number}(long x, struct record_{number} *r) {{",
                  f"    for (int i = 0; i < {a % 40 + 3}; i++) {{ x = x * {b} + (x >> 3) + i; r->key ^= (int)x; }}",
                  f"    if (x % {c} == 0) snprintf(r->name, sizeof r->name, \"%ld\", x);",
                  "    r->value[0] += sqrt((double)(x & 0xffff)); return x; }"]
    lines += ["int main(void) { long x = 1;"]
    lines += [f"    {{ struct record_{n} r; memset(&r, 0, sizeof r); x += step_{n}(x, &r); }}" for n in range(60)]
    lines += ["    printf(\"%ld\\n\", x); return 0; }"]
    pathlib.Path(f"src/unit{unit:02}.c").write_text("\n".join(lines) + "\n")
PY
cat >Makefile <<'MAKE'
SOURCES := $(wildcard src/*.c)
PROGRAMS := $(patsubst src/%.c,build/%,$(SOURCES))
all: $(PROGRAMS)
build/%: src/%.c
	@mkdir -p build
	gcc -save-temps=obj -g -O1 -pipe -o $@ $< -lm
MAKE
git init -q .
git -c user.name=lab -c user.email=lab@localhost add .
git -c user.name=lab -c user.email=lab@localhost commit -q -m 'Generated sources'
make -s all 2>&1 | tail -3
for program in build/unit??; do "$program"; done | sort -n | tail -1
ar rc build/all.a build/*.o
tar -C / -cf - usr/include root/project | gzip -1 >/root/release.tar.gz
find /usr/lib/gcc /usr/lib/x86_64-linux-gnu /usr/lib/python3.11 -type f -name '*.[apoh]*' -exec cat {} + | sha256sum
python3 -m compileall -q -f -d /tmp/x /usr/lib/python3.11/json /usr/lib/python3.11/email /usr/lib/python3.11/http
git -c user.name=lab -c user.email=lab@localhost add -f build
git -c user.name=lab -c user.email=lab@localhost commit -q -m 'Built'
du -sm /root/project
