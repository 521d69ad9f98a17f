"""Command-line programs of the study: version control, archives, text, a database, a compiler, clients."""

from __future__ import annotations

import http.server
import random
import threading
from typing import TYPE_CHECKING

from study.workload import Program, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from study.workload import Place

__all__ = ["TOOLS", "texts"]


def _tasks(*lines: str, stdin: str = "") -> tuple[Task, ...]:
    # One task for each line, its words separated by blanks; ~ stands for a blank inside a word.
    return tuple(Task(tuple(word.replace("~", " ") for word in line.split()), stdin=stdin) for line in lines)


def texts(place: Place) -> None:
    """Write text files, some of them nested, and a longer list of numbers."""
    words = random.Random(1).choices(["alpha", "beta", "gamma", "delta", "42", "7", "x=y", "Zeile"], k=30_000)
    for name, n in (("a.txt", 400), ("b.txt", 3_000), ("deep/c.txt", 500), ("deep/er/d.txt", 200)):
        place.write(name, "".join(f"{' '.join(words[i : i + 5])}\n" for i in range(n)))
    place.write("numbers.txt", "".join(f"{(i * 7919) % 10_007}\tline{i % 97}\n" for i in range(60_000)))
    place.write("patterns.txt", "alpha beta\n^42\nZeile$\n")


def _git(place: Place) -> None:
    texts(place)
    place.write(
        ".gitconfig", "[user]\nname = Tester\nemail = tester@example.org\n[init]\ndefaultBranch = main\n"
    )
    for name in ("repo", "other"):
        place.write(f"{name}/main.c", "int main(void) { return 0; }\n")
        place.write(f"{name}/doc/readme.txt", "text\n" * 400)
        place.write(f"{name}/doc/more.txt", "more\n" * 90)


_GIT_A = _tasks(
    "git init -q repo",
    "git -C repo add .",
    "git -C repo commit -q -m first",
    "git -C repo status",
    "git -C repo mv doc/more.txt less.txt",
    "git -C repo --no-pager diff --cached",
    "git -C repo commit -q -a -m second",
    "git -C repo --no-pager log --stat",
)
_GIT_B = _tasks(
    "git init -q other",
    "git -C other add .",
    "git -C other commit -q -m start",
    "git -C other checkout -q -b topic",
    "git -C other rm -q doc/more.txt",
    "git -C other commit -q -m less",
    "git -C other checkout -q main",
    "git -C other merge -q --no-ff -m joined topic",
    "git -C other tag -a -m release v1",
    "git -C other --no-pager blame main.c",
    "git -C other --no-pager grep -n text",
    "git -C other stash list",
    "git clone -q other copy",
    "git -C copy fetch -q --tags",
    "git -C other gc -q",
    "git -C other archive -o ../v1.tar v1",
    "git -C other fsck",
)

_SQL_A = (
    "create table t(id integer primary key, name text, n real);"
    "with recursive c(i) as (select 1 union all select i+1 from c where i<2000)"
    " insert into t select i, 'name'||i, i*1.5 from c;"
    "create index by_name on t(name); select count(*), avg(n) from t where name like 'name1%';"
    "update t set n=n+1 where id%3=0; delete from t where id%7=0;"
)
_SQL_B = (
    "pragma journal_mode=wal; create table big(k text, v blob); begin;"
    "with recursive c(i) as (select 1 union all select i+1 from c where i<4000)"
    " insert into big select 'k'||i, randomblob(900) from c; commit;"
    "begin; delete from big where rowid%2; rollback;"
    "pragma temp_store=file; create temp table s as select * from big order by v;"
    "select k, length(v) from big group by k order by 2 desc, 1 limit 5; attach 'second.db' as two;"
    "create table two.copy as select * from big; vacuum; pragma wal_checkpoint(truncate);"
    "pragma integrity_check; create virtual table f using fts5(x); insert into f values('a b c');"
    "select * from f where f match 'b';"
)
_SQLITE_A = (
    Task(("sqlite3", "a.db", _SQL_A)),
    *_tasks(
        "sqlite3 -header -column a.db select~*~from~t~limit~20",
        "sqlite3 a.db .tables",
        "sqlite3 a.db insert~into~t(name)~values('more')",
        "sqlite3 a.db vacuum",
        "sqlite3 a.db select~nothing",
    ),
)
_SQLITE_B = (
    Task(("sqlite3", "b.db", _SQL_B)),
    *_tasks("sqlite3 b.db .schema", "sqlite3 -csv b.db select~k~from~big~limit~9", "sqlite3 b.db .dump"),
    Task(("sqlite3", "c.db"), stdin="load.sql"),
    *_tasks("sqlite3 -readonly b.db select~count(*)~from~big", "sqlite3 b.db .backup~saved.db"),
)


def _sqlite(place: Place) -> None:
    texts(place)
    place.write(
        "load.sql",
        'create table n(a, b);\n.separator "\\t"\n.import numbers.txt n\n.output out.txt\n'
        "select sum(a) from n;\n.output stdout\nselect b, count(*) from n group by b;\n",
    )


_C_MAIN = """#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int twice(int);
int main(int argc, char **argv) {
    char *p = malloc(100); strcpy(p, argv[0]); printf("%s %d\\n", p, twice(argc)); free(p); return 0;
}
"""
_C_MATH = """#include <math.h>
#include <pthread.h>
static void *run(void *p) { *(double *)p = sqrt(*(double *)p); return 0; }
double root(double x) { pthread_t t; pthread_create(&t, 0, run, &x); pthread_join(t, 0); return x; }
"""
_CPP = """#include <map>
#include <string>
int main() { std::map<std::string, int> m; m["a"] = 1; return m.size() - 1; }
"""


def _gcc(place: Place) -> None:
    place.write("main.c", _C_MAIN)
    place.write("twice.c", "int twice(int n) { return n * 2; }\n")
    place.write("root.c", _C_MATH)
    place.write("broken.c", "int main(void) { return missing; }\n")


def _web(place: Place) -> Callable[[], None]:
    """Serve a few answers from this process, and return what stops it."""
    texts(place)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"x" * (300_000 if "big" in self.path else 500)
            self.send_response(302 if "move" in self.path else 404 if "gone" in self.path else 200)
            if "move" in self.path:
                self.send_header("Location", "/there")
            self.send_header("Set-Cookie", "a=b")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", place.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop


TOOLS = (
    Program("git", "version control", ("git",), _git, _GIT_A, _GIT_B),
    Program("sqlite3", "database in a file", ("sqlite3",), _sqlite, _SQLITE_A, _SQLITE_B),
    Program(
        "gcc",
        "compiler, many processes",
        ("gcc",),
        _gcc,
        _tasks(
            "gcc -O2 -c twice.c",
            "gcc -O2 -o main main.c twice.o",
            "gcc -g -Wall -o debug main.c twice.c -lm",
            "gcc -c missing.c",
            "gcc --version",
        ),
        _tasks(
            "gcc -g -O0 -Wall -fPIC -shared -o libroot.so root.c -lm -pthread",
            "gcc -S -O3 -march=native main.c",
            "gcc -E -o main.i main.c",
            "gcc -pipe -flto -O1 -save-temps -o whole main.c twice.c",
            "gcc -M main.c",
            "gcc broken.c",
            "gcc -static -o still main.c twice.c",
            "gcc --print-search-dirs",
        ),
    ),
    Program(
        "tar",
        "archiver",
        ("tar", "gzip"),
        texts,
        _tasks(
            "tar cf x.tar a.txt deep",
            "tar tf x.tar",
            "tar xf x.tar -C {dir}/deep/er",
            "tar czf y.tgz a.txt b.txt",
            "tar xzf y.tgz",
            "tar cvf v.tar deep",
        ),
        _tasks(
            "tar cJf y.txz --exclude=*.c b.txt deep numbers.txt",
            "tar xJf y.txz --strip-components=1 -C {dir}/deep",
            "tar cvf z.tar --owner=nobody --mode=u+rw a.txt",
            "tar rf z.tar b.txt",
            "tar uf z.tar a.txt deep/c.txt",
            "tar --delete -f z.tar b.txt",
            "tar df z.tar",
            "tar xpf z.tar --overwrite --wildcards *.txt",
            "tar xOf z.tar a.txt",
        ),
    ),
    Program(
        "sort",
        "filter over text",
        ("sort",),
        texts,
        _tasks("sort a.txt", "sort -n numbers.txt -o sorted.txt", "sort -r -k2 b.txt", "sort -u a.txt b.txt")
        + _tasks("sort -f", stdin="a.txt"),
        _tasks(
            "sort -u -k2,2 -S 100K --parallel=2 -T {dir} numbers.txt",
            "sort -r -o b.txt b.txt",
            "sort -c a.txt",
            "sort --parallel=4 -g numbers.txt a.txt b.txt",
            "sort -R --compress-program=gzip -S 200K numbers.txt",
            "sort -m a.txt b.txt",
        )
        + _tasks("sort -V -z", stdin="b.txt"),
    ),
    Program(
        "grep",
        "filter over text",
        ("grep",),
        texts,
        _tasks(
            "grep alpha a.txt",
            "grep -n -i BETA b.txt",
            "grep -v -c x numbers.txt",
            "grep -r delta deep",
            "grep -w -E (gamma|42)$ b.txt",
        )
        + _tasks("grep -q Zeile", stdin="a.txt"),
        _tasks(
            "grep -r -l Zeile .",
            "grep -c -v -f patterns.txt numbers.txt",
            "grep -P (?<=x)=y a.txt b.txt",
            "grep --color=always -o -E [0-9]+$ numbers.txt",
            "grep -z -a x /bin/true",
            "grep nothing missing.txt",
            "grep -A2 -B2 -m3 delta b.txt",
            "grep -R --include=*.txt 42 {dir}",
        )
        + _tasks("grep -F 7 -", stdin="numbers.txt"),
    ),
    Program(
        "busybox",
        "static binary of many tools",
        ("busybox",),
        texts,
        _tasks(
            "busybox ls -l",
            "busybox cat a.txt",
            "busybox wc b.txt",
            "busybox cp a.txt copy.txt",
            "busybox grep alpha b.txt",
            "busybox mkdir made",
            "busybox head -n 5 b.txt",
            "busybox sort a.txt",
            "busybox rm copy.txt",
        ),
        _tasks(
            "busybox find . -name *.txt -size +1",
            "busybox sed -i s/alpha/omega/ b.txt",
            "busybox tar cf x.tar deep",
            "busybox sort -u numbers.txt",
            "busybox head -n 3 a.txt",
            "busybox du -s .",
            "busybox cp -r deep deeper",
            "busybox rm -r deeper",
            "busybox md5sum a.txt b.txt",
            "busybox gzip -k b.txt",
            "busybox awk {n+=$1}END{print~n} numbers.txt",
            "busybox mv a.txt moved.txt",
            "busybox stat b.txt",
            "busybox date",
        ),
    ),
    Program(
        "bash",
        "shell",
        ("bash",),
        texts,
        _tasks(
            "bash -c for~i~in~1~2~3;~do~echo~$i;~done~>~out.txt",
            "bash -c while~read~-r~x;~do~n=$((n+1));~done~<~a.txt;~echo~$n",
            "bash -c ls~|~wc~-l",
            "bash -c for~f~in~*.txt;~do~test~-s~$f~&&~basename~$f;~done",
            "bash -c f()~{~local~a=$1;~echo~$((a*2));~};~f~21;~false~||~exit~3",
        ),
        _tasks(
            "bash -c declare~-A~m;~m[a]=1;~[[~-f~a.txt~]]&&~echo~${m[a]}~>&2",
            "bash -c cat~<(sort~a.txt)~|~head~-n~2",
            "bash -c sleep~0.05~&~p=$!;~wait~$p;~echo~$?~$RANDOM~$SECONDS",
            "bash -c trap~'echo~bye'~EXIT;~cd~deep;~pwd;~umask~027;~test~-w~c.txt",
            "bash -c x=$(cat~<<<hello);~printf~%s~$x;~type~ls;~ulimit~-n~512;~ulimit~-n",
            "bash -c sleep~9~&~kill~$!;~wait;~exec~true",
            "bash -c mapfile~-t~l~<~b.txt;~echo~${#l[@]};~read~-t~0.05~x~<~/dev/null;~times",
        ),
        is_held_out=True,
    ),
    Program(
        "perl",
        "interpreter",
        ("perl",),
        texts,
        _tasks(
            "perl -ne print~if~/alpha/ a.txt",
            "perl -e open(F,'<','b.txt');$n++while<F>;print~$n",
            "perl -i -pe s/beta/BETA/ b.txt",
            "perl -MList::Util=sum -e print~sum(1..99)",
            "perl -le print~for~sort~<*.txt>",
        ),
        _tasks(
            "perl -MFile::Find -e find(sub{print~$_~if~-f},'.')",
            "perl -MPOSIX -e print~strftime('%F',localtime);sleep(0)",
            "perl -MDigest::SHA -e print~Digest::SHA->new(256)->addfile('numbers.txt')->hexdigest",
            "perl -e open(F,'>','new')or~die;print~F~'x'x99999;close~F;rename('new','old');unlink('old')",
            "perl -e opendir(D,'.');print~readdir(D);mkdir('m');rmdir('m');die~'out'",
            "perl -MFile::Temp -e $t=File::Temp->new;print~$t~rand();@s=stat('a.txt');print~$s[7]",
            "perl -MTime::HiRes=usleep -e usleep(9);$SIG{ALRM}=sub{};alarm(1);select(undef,undef,undef,.01)",
        ),
        is_held_out=True,
    ),
    Program(
        "xz",
        "compressor",
        ("xz",),
        texts,
        _tasks(
            "xz -k numbers.txt",
            "xz -d -c numbers.txt.xz",
            "xz b.txt",
            "unxz b.txt.xz",
            "xz -t numbers.txt.xz",
        ),
        _tasks(
            "xz -T2 --block-size=100KiB -c numbers.txt",
            "xz -9e -f a.txt",
            "xz -l a.txt.xz",
            "xz -t -v a.txt.xz",
            "xz -d a.txt.xz",
            "xz --format=lzma b.txt",
            "xz missing.txt",
        )
        + _tasks("xz -1 -z", stdin="numbers.txt"),
        is_held_out=True,
    ),
    Program(
        "curl",
        "network client",
        ("curl",),
        _web,
        _tasks(
            "curl -s http://127.0.0.1:{port}/x",
            "curl -s -o saved http://127.0.0.1:{port}/big",
            "curl -s http://localhost:{port}/x",
            "curl -s -L http://127.0.0.1:{port}/move",
            "curl -s -d a=b http://127.0.0.1:{port}/post",
        ),
        _tasks(
            "curl -s -L -c jar -b jar http://localhost:{port}/move",
            "curl -s -I http://127.0.0.1:{port}/big",
            "curl -s -d @numbers.txt http://127.0.0.1:{port}/post",
            "curl -s -T b.txt http://127.0.0.1:{port}/up",
            "curl -s -F f=@a.txt http://127.0.0.1:{port}/form",
            "curl -s -Z http://127.0.0.1:{port}/1 http://127.0.0.1:{port}/2 http://127.0.0.1:{port}/big",
            "curl -s -f http://127.0.0.1:{port}/gone",
            "curl -s --limit-rate 3M --max-time 5 -O http://127.0.0.1:{port}/big",
            "curl -s -k https://127.0.0.1:{port}/tls",
            "curl -s http://no.such.host.invalid/",
            "curl -v --connect-timeout 1 http://127.0.0.1:1/",
        ),
        is_held_out=True,
    ),
    Program(
        "jq",
        "filter over JSON",
        ("jq",),
        lambda place: place.write("j.json", '[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]' * 50),
        _tasks(
            "jq . j.json", "jq -r .[].b j.json", "jq length j.json", "jq -c .[0]|{a} j.json", "jq . missing"
        ),
        _tasks(
            "jq -s -c map(length) j.json",
            "jq -n [range(1000)]|add",
            "jq --arg k a .[]|select(.[$k]==2) j.json",
            "jq -n now|todate",
            "jq -n env|keys",
            "jq .[ j.json",
        )
        + _tasks("jq -S length", stdin="j.json"),
        is_held_out=True,
    ),
    Program(
        "openssl",
        "cryptography",
        ("openssl",),
        texts,
        _tasks(
            "openssl dgst -sha256 a.txt",
            "openssl rand -hex 16",
            "openssl enc -aes-128-cbc -pbkdf2 -k x -in a.txt -out a.enc",
            "openssl genpkey -algorithm ed25519 -out ed.pem",
            "openssl base64 -in a.txt",
        ),
        _tasks(
            "openssl genrsa -out key.pem 1024",
            "openssl req -new -x509 -key key.pem -subj /CN=x -out c.pem -days 9",
            "openssl x509 -in c.pem -noout -text",
            "openssl enc -aes-256-cbc -pbkdf2 -k secret -in b.txt -out b.enc",
            "openssl enc -d -aes-256-cbc -pbkdf2 -k secret -in b.enc",
            "openssl ecparam -name prime256v1 -genkey -noout -out ec.pem",
            "openssl dgst -sha1 -sign key.pem -out s numbers.txt",
            "openssl version -a",
        )
        + _tasks("openssl base64", stdin="a.txt"),
        is_held_out=True,
    ),
)
