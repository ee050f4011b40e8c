# SPDX-License-Identifier: GPL-2.0-or-later
"""MariaDB's program and the tables that it begins with, without its packages' scripts and service: mariadb-server-core has all that is needed."""
import os
import shutil
import subprocess

SERVER = shutil.which("mariadbd") or (os.path.exists("/usr/sbin/mariadbd") and "/usr/sbin/mariadbd")
SQL = "/usr/share/mysql/mysql_system_tables.sql", "/usr/share/mysql/mysql_system_tables_data.sql"


def missing():
    """Why there is no MariaDB, or None."""
    return None if SERVER and all(map(os.path.exists, SQL)) else "there is no MariaDB: install mariadb-server-core"


def make_tables(directory):
    """The system's tables; root is let in by who he is."""
    text = 'create database mysql;\nuse mysql;\nset @auth_root_socket="root";\nset @skip_auth_anonymous="Y";\nset @current_hostname="localhost";\n'
    for name in SQL:
        with open(name) as file:
            text += file.read()
    done = subprocess.run([SERVER, "--no-defaults", "--bootstrap", "--user=root", "--datadir=" + directory, "--innodb-log-file-size=8M",
                           "--innodb-buffer-pool-size=16M"], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
