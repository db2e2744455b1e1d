#!/bin/sh
# A small build machine: a C project is generated, committed, built twice, run, packed; the tool chain is checked, as
# debsums does it.
set -eu
export GIT_AUTHOR_NAME=lab GIT_AUTHOR_EMAIL=lab@localhost GIT_COMMITTER_NAME=lab GIT_COMMITTER_EMAIL=lab@localhost
mkdir -p /root/project/src
cd /root/project
python3 - <<'PY'
import pathlib, random
random.seed(21)
nouns = ("sensor", "valve", "pump", "filter", "gauge", "motor", "relay", "switch")
MODULES, FUNCTIONS = 8, 8
for m in range(MODULES):
    text = ['#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n']
    calls = []
    for n in range(FUNCTIONS):
        name = f"{random.choice(nouns)}_{m}_{n}"
        numbers = ", ".join(str(random.randrange(1 << random.randrange(3, 30))) for _ in range(random.randrange(30, 90)))
        loop = random.choice((f"h = h * {random.randrange(3, 99)} + v[i];", f"h ^= v[i] << (i % {random.randrange(2, 9)});",
                              f"if (v[i] % {random.randrange(2, 9)}) h += v[i]; else h -= i;"))
        text.append(f"static long {name}(long h) {{\n    static const int v[] = {{ {numbers} }};\n"
                    f"    char label[64];\n    for (unsigned i = 0; i < sizeof v / sizeof *v; i++) {{ {loop} }}\n"
                    f"    snprintf(label, sizeof label, \"{random.choice(nouns)} %ld\", h);\n    return h + (long)strlen(label);\n}}\n")
        calls.append(f"    h = {name}(h);\n")
    text.append(f"long module{m:02}(long h) {{\n{''.join(calls)}    return h;\n}}\n")
    pathlib.Path(f"src/module{m:02}.c").write_text("\n".join(text))
declared = "".join(f"long module{m:02}(long h);\n" for m in range(MODULES))
called = "".join(f"    h = module{m:02}(h);\n" for m in range(MODULES))
pathlib.Path("src/main.c").write_text(f"#include <stdio.h>\n{declared}int main(void) {{\n    long h = 1;\n{called}    printf(\"%ld\\n\", h);\n    return 0;\n}}\n")
PY
cat >Makefile <<'MAKE'
OBJECTS := $(patsubst src/%.c,%.o,$(wildcard src/*.c))
program: $(OBJECTS)
	gcc -o $@ $(OBJECTS)
%.o: src/%.c
	gcc -O2 -g -Wall -c -o $@ $<
MAKE
git init -q .
git add Makefile src
git commit -q -m "The project"
make -s
./program
sed -i 's/unsigned i = 0/unsigned i = 1/' src/module02.c src/module05.c
make -s
./program
git commit -q -a -m "Start at the second"
git log --stat --oneline | tail -n 1
tar -cf - -C /root project | gzip -1 >/root/project.tar.gz
(cd / && cat /var/lib/dpkg/info/cpp-12.md5sums /var/lib/dpkg/info/libgcc-12-dev*.md5sums /var/lib/dpkg/info/git.md5sums | md5sum -c --quiet)
free -m
