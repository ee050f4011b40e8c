# SPDX-License-Identifier: GPL-2.0-or-later
"""Real servers for a guest, Redis and MariaDB: the host's own programs with what they are linked with, in an archive that the guest's kernel
unpacks beside the image. The guest's init runs /servers/start, which fills them and goes on to look whether all is as it was:

    SERVERS redis N      so many keys are there, each with the value that it should have, or WRONG
    SERVERS mariadb N    so many rows are, of ROWS
"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "unit"))

import mariadb_files

ROWS = 60000
REDIS = shutil.which("redis-server") or shutil.which("redis-check-rdb")
CLI = shutil.which("redis-cli")

CONFIG = """redis floor=16M
mariadb floor=16M
"""
# Each look writes a file of its own: nothing is written over one.
INIT_SQL = f"""CREATE DATABASE t;
USE t;
CREATE TABLE t.a (i INT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(1000)) ENGINE=InnoDB;
INSERT INTO t.a (x) SELECT REPEAT('y', 950) FROM seq_1_to_{ROWS};
CREATE DEFINER=root@localhost EVENT t.look ON SCHEDULE EVERY 5 SECOND DO EXECUTE IMMEDIATE CONCAT("SELECT COUNT(*) INTO OUTFILE '/tmp/rows.", UNIX_TIMESTAMP(), "' FROM t.a WHERE x=REPEAT('y',950)");
"""
START = """#!/bin/sh
mkdir -p /run/redis /run/mysqld
redis() { /servers/redis-cli -s /run/redis/redis-server.sock "$@"; }
/servers/mariadbd --no-defaults --user=root --datadir=/servers/data --socket=/run/mysqld/mysqld.sock --skip-networking --skip-log-bin \\
	--pid-file=/tmp/pid --innodb-buffer-pool-size=96M --innodb-log-file-size=8M --innodb-flush-log-at-trx-commit=0 --event-scheduler=ON \\
	--lc-messages-dir=/servers/share --character-sets-dir=/servers/share/charsets --init-file=/servers/init.sql >/tmp/mariadb.log 2>&1 &
/servers/redis-server --port 0 --unixsocket /run/redis/redis-server.sock --maxmemory-policy allkeys-lru --save '' --appendonly no --dir /tmp >/dev/null &
until [ "$(redis PING 2>/dev/null)" = PONG ]; do sleep 1; done
redis EVAL "for i = 1, 8000 do redis.call('set', 'key' .. i, string.rep('x', 16000) .. i) end" 0 >/dev/null
while :; do
	echo "SERVERS redis $(redis EVAL "local n, x = 0, string.rep('x', 16000) for i = 1, 8000 do local v = redis.call('get', 'key' .. i)
		if v then if v ~= x .. i then return 'WRONG' end n = n + 1 end end return n" 0)"
	for file in /tmp/rows.*; do
		[ -s "$file" ] && echo "SERVERS mariadb $(cat "$file")" && rm "$file"
	done
	sleep 2
done
"""


def missing():
    """Why there can be none, or None."""
    return mariadb_files.missing() or (None if REDIS and CLI else "there is no Redis: install redis-tools") or \
        (None if os.geteuid() == 0 else "needs root, to make MariaDB's tables")


def libraries(program):
    for line in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path:
            yield path


def write(path, text, mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def copy(root, programs):
    """Programs, by the name that each has in /servers, and the libraries that they need."""
    os.makedirs(root + "/servers", exist_ok=True)
    for name, program in programs.items():
        shutil.copy(program, f"{root}/servers/{name}")
        for path in libraries(program):
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            shutil.copy(path, root + path)


def archive(root, path):
    """Puts all of root into an archive, and removes it."""
    names = "".join(os.path.relpath(os.path.join(top, name), root) + "\n" for top, dirs, files in os.walk(root) for name in sorted(dirs + files))
    with open(path, "wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], input=names.encode(), stdout=out, cwd=root, check=True)
    shutil.rmtree(root)


def join(path, *archives):
    """One initrd of several."""
    with open(path, "wb") as out:
        for part in archives:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, out)
            # The kernel looks for the next archive at a multiple of four bytes.
            out.write(bytes(-out.tell() % 4))


def make(directory):
    """The archive, in directory. Returns its path."""
    root = directory + "/servers-root"
    own = root + "/servers"
    copy(root, {"redis-server": REDIS, "redis-cli": CLI, "mariadbd": mariadb_files.SERVER})
    os.makedirs(own + "/data")
    os.makedirs(root + "/etc")
    share = os.path.dirname(mariadb_files.SQL[0])
    for name in "english", "charsets":
        shutil.copytree(f"{share}/{name}", f"{own}/share/{name}")
    mariadb_files.make_tables(own + "/data")
    write(own + "/init.sql", INIT_SQL)
    write(own + "/start", START, 0o755)
    write(root + "/etc/overbook-guest.conf", CONFIG)
    write(root + "/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
    archive(root, directory + "/servers.cpio")
    return directory + "/servers.cpio"
