#!/bin/sh
# A build machine: a C project is generated, committed, built with make -j2, run, changed, rebuilt, cloned over ssh
# and packed; ssh sessions stay open, as a developer's do.
set -eu
export GIT_AUTHOR_NAME=lab GIT_AUTHOR_EMAIL=lab@localhost GIT_COMMITTER_NAME=lab GIT_COMMITTER_EMAIL=lab@localhost
mkdir -p /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
ssh-keyscan -t ed25519 localhost >/root/.ssh/known_hosts 2>/dev/null
sleep 100000 | ssh -tt localhost vi -n -R /usr/share/perl/5.36/perl5db.pl >/dev/null 2>&1 &
ssh localhost 'tail -F /var/log/syslog' </dev/null >/dev/null 2>&1 &

mkdir -p /root/project/src
cd /root/project
cat >/root/generate.py <<'PY'
"""Generates a project of modules: records, tables, parsers, sorting, matrices; each calls some of those before it."""
import pathlib, random
random.seed(2)
words = ("order", "user", "page", "cache", "frame", "token", "route", "queue", "index", "batch", "lease", "quota")
MODULES, FUNCTIONS = 12, 16

def record(name, n):
    fields = random.sample(words, random.randrange(2, 7))
    kinds = [random.choice(("int", "long", "double", "unsigned char", "short")) for _ in fields]
    body = " ".join(f"{kind} {field}_{n};" for kind, field in zip(kinds, fields))
    sums = " ".join(f"total += (long)r->{field}_{n} * {random.randrange(2, 99)};" for field in fields)
    sets = " ".join(f"r->{field}_{n} = x % {random.randrange(3, 250)};" for field in fields)
    return (f"struct {name}_record {{ struct {name}_record *next; {body} char label[{random.randrange(8, 64)}]; }};\n"
            f"long {name}(long x) {{\n    struct {name}_record *head = NULL, *r; long total = 0;\n"
            f"    for (int i = 0; i < {random.randrange(3, 40)}; i++) {{\n        r = calloc(1, sizeof *r); if (!r) abort();\n"
            f"        {sets}\n        snprintf(r->label, sizeof r->label, \"{random.choice(words)} %ld of %d\", x, i);\n"
            f"        r->next = head; head = r; x = x * 31 + i;\n    }}\n"
            f"    while (head) {{ r = head; head = r->next; {sums} total += strlen(r->label); free(r); }}\n    return total; }}\n")

def parser(name, n):
    cases = "".join(f"        case '{letter}': state = (state * {random.randrange(3, 60)} + {k}) & {random.choice((255, 1023, 4095))}; break;\n"
                    for k, letter in enumerate(random.sample("abcdefghijklmnopqrstuvwxyz", random.randrange(4, 12))))
    text = " ".join(random.choice(words) for _ in range(random.randrange(5, 16)))
    return (f"long {name}(long x) {{\n    static const char text[] = \"{text}\";\n    unsigned state = (unsigned)x & 255;\n"
            f"    for (const char *p = text; *p; p++) {{\n        switch (*p) {{\n{cases}        default: state ^= (unsigned char)*p;\n        }}\n"
            f"    }}\n    return state; }}\n")

def matrix(name, n):
    size = random.randrange(4, 13)
    return (f"long {name}(long x) {{\n    double a[{size}][{size}], b[{size}][{size}], s = 0;\n"
            f"    for (int i = 0; i < {size}; i++) for (int j = 0; j < {size}; j++) {{ a[i][j] = x % (i + {n + 2}); b[i][j] = i * j + {n}; }}\n"
            f"    for (int i = 0; i < {size}; i++) for (int j = 0; j < {size}; j++) for (int k = 0; k < {size}; k++) s += a[i][k] * b[k][j];\n"
            f"    return (long)(sqrt(fabs(s)) * {random.randrange(2, 50)}); }}\n")

def sorting(name, n):
    count = random.randrange(20, 200)
    return (f"static int {name}_order(const void *a, const void *b) {{ long p = *(const long *)a, q = *(const long *)b;\n"
            f"    return (p % {random.randrange(5, 90)} > q % {random.randrange(5, 90)}) - (p < q); }}\n"
            f"long {name}(long x) {{\n    long v[{count}], total = 0;\n    for (int i = 0; i < {count}; i++) v[i] = (x = x * 1103515245 + 12345) >> 7 & 0xffff;\n"
            f"    qsort(v, {count}, sizeof *v, {name}_order);\n    for (int i = 0; i < {count}; i += {random.randrange(1, 5)}) total += v[i] * i;\n    return total; }}\n")

def table(name, n):
    values = ", ".join(str(random.randrange(10**random.randrange(1, 6))) for _ in range(random.randrange(20, 150)))
    return (f"static const int {name}_values[] = {{ {values} }};\nlong {name}(long x) {{\n    long total = x;\n"
            f"    for (size_t i = 0; i < sizeof {name}_values / sizeof *{name}_values; i++)\n"
            f"        if (({name}_values[i] ^ x) & {random.randrange(1, 8)}) total += {name}_values[i]; else total = total * {random.randrange(3, 11)} ^ (long)i;\n"
            f"    return total; }}\n")

known = []
for module in range(MODULES):
    source = ['#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n#include <pthread.h>\n'
              '#include <sys/socket.h>\n#include <time.h>\n#include "project.h"\n\n']
    own = []
    for n in range(FUNCTIONS):
        name = f"{random.choice(words)}_{random.choice(words)}_{module}_{n}"
        source.append(random.choice((record, parser, matrix, sorting, table))(name, n) + "\n")
        own.append(name)
    calls = own + random.sample(known, min(len(known), 12))
    source.append(f"long module_{module}(long x) {{\n    if (x < 0) return x;\n" + "".join(f"    x += {call}(x) % 1000003;\n" for call in calls) + "    return x; }\n")
    pathlib.Path(f"src/module{module:02}.c").write_text("".join(source))
    known += own
header = "".join(f"long {name}(long x);\n" for name in known) + "".join(f"long module_{m}(long x);\n" for m in range(MODULES))
pathlib.Path("src/project.h").write_text(header)
main = "".join(f'    x += module_{m}(x & 0xfffff); printf("{m} %ld\\n", x);\n' for m in range(MODULES))
pathlib.Path("src/main.c").write_text('#include <stdio.h>\n#include "project.h"\nint main(void) {\n    long x = 1;\n' + main + "    return 0; }\n")
PY
python3 /root/generate.py
cat >Makefile <<'MAKE'
CFLAGS := -O2 -g -Wall
SOURCES := $(wildcard src/*.c)
OBJECTS := $(patsubst src/%.c,build/%.o,$(SOURCES))
build/project: $(OBJECTS) build/libproject.a
	gcc -o $@ build/main.o build/libproject.a -lm
build/libproject.a: $(OBJECTS)
	ar rcs $@ $(filter-out build/main.o,$^)
build/%.o: src/%.c src/project.h | build
	gcc $(CFLAGS) -c -o $@ $<
build:
	mkdir build
MAKE
printf 'build/\n' >.gitignore
git init -q .
for part in Makefile .gitignore src/project.h src/main.c src/module??.c; do
    git add "$part"
    git commit -q -m "Add $part"
done
make -s -j2
build/project | tail -n 1

# A few changes, each tried on the module that it touches.
for module in 03 07; do
    git checkout -q -b "tune-$module"
    perl -pi -e 's/x \* 31 \+ i/x * 33 ^ i/; s/1103515245/1664525/' "src/module$module.c"
    make -s -j2
    build/project | tail -n 1
    git commit -q -a -m "Other constants in module $module"
done
git log --stat --oneline | tail -n 2
git diff master tune-07 | wc -l
git gc -q
git clone -q ssh://localhost/root/project /root/checkout
git -C /root/checkout log --oneline | wc -l

cat >/root/report.pl <<'PL'
use strict; use warnings;
use Data::Dumper; use File::Find; use POSIX qw(strftime); use Text::Wrap;
my (%symbols, %words);
for my $object (glob "build/*.o") {
    open my $nm, "-|", "nm", "-S", $object or die $!;
    while (<$nm>) { my ($at, $size, $kind, $name) = split; $symbols{$name} = [$object, hex $size] if defined $name && $kind =~ /[tT]/ }
}
find(sub { return unless /\.[ch]$/; open my $in, "<", $_ or die $!; while (<$in>) { $words{$1}{$File::Find::name}++ while /([a-z_]{4,})/g } }, "src", "/usr/include");
my @big = (sort { $symbols{$b}[1] <=> $symbols{$a}[1] } keys %symbols)[0 .. 4];
print wrap("", "  ", strftime("%F", gmtime), scalar(keys %symbols), "symbols,", scalar(keys %words), "words,", @big), "\n";
PL
perl /root/report.pl
python3 -m compileall -q -f /usr/lib/python3.11/json /usr/lib/python3.11/email /usr/lib/python3.11/http /usr/lib/python3.11/asyncio
tar -C / -cf - root/project | gzip -1 >/root/release.tar.gz
# Is the tool chain still what was installed? As debsums does it.
(cd / && cat /var/lib/dpkg/info/gcc-12.md5sums /var/lib/dpkg/info/cpp-12.md5sums /var/lib/dpkg/info/libgcc-12-dev*.md5sums \
    /var/lib/dpkg/info/libc6-dev*.md5sums /var/lib/dpkg/info/binutils-*.md5sums /var/lib/dpkg/info/git.md5sums | md5sum -c --quiet)
objdump -d build/project | wc -l
free -m
