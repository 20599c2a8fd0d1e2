#!/usr/bin/python

# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: Tell everything about a host and one of its PostgreSQL clusters
version_added: 1.0.0
description:
  - Answers, in one call, all that the role P(schema_registry.postgresql.server#role) must know before it decides anything.
  - It reads the clusters of postgresql-common (Debian, Ubuntu), and asks the cluster itself if that is running.
  - It also works on a host without PostgreSQL. It must run as root.
author:
  - Schema Registry contributors (@schema-registry)
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - This module never changes anything.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: debian
options:
  version:
    description:
      - The major version of the cluster.
      - If empty, it is what O(default_versions) says for this host.
    type: str
    default: ''
  default_versions:
    description:
      - The major version that each platform brings, by the platform's name and version, such as C(debian-12).
    type: dict
    default: {}
  cluster:
    description:
      - The cluster's name.
    type: str
    default: main
  data_directory:
    description:
      - Where the cluster's data shall be, if the cluster does not exist yet.
      - If empty, it is the place that postgresql-common chooses.
    type: path
    default: ''
  port:
    description:
      - The port on which the cluster is wanted.
    type: int
    default: 5432
  packages:
    description:
      - Debian packages to look for. C({version}) stands for the major version.
    type: list
    elements: str
    default: []
  repository:
    description:
      - Address and suite of an apt repository to look for, with a space between them. C({codename}) stands for the name of the host's release.
    type: str
    default: ''
  tls_files:
    description:
      - Certificate, private key and optionally certificate authority that the server uses. C({version}) stands for the major version.
    type: list
    elements: path
    default: []
  timeout:
    description:
      - How many seconds to wait until a running server accepts connections and has loaded its configuration.
    type: int
    default: 0
seealso:
  - module: schema_registry.postgresql.cluster_config
"""

EXAMPLES = r"""
- name: The cluster is known
  schema_registry.postgresql.cluster_info:
    version: '17'
    cluster: production
    packages: ['postgresql-{version}', python3-psycopg2]
  register: host

- name: A setting that waits for a restart is named
  ansible.builtin.debug:
    var: host.cluster.pending_restart
"""

RETURN = r"""
platform:
  description: The operating system.
  returned: always
  type: dict
  sample: {id: debian, version: '12', codename: bookworm, name: Debian GNU/Linux 12 (bookworm), architecture: amd64}
version:
  description: The major version that is meant. Empty if O(version) is empty and the platform is not in O(default_versions).
  returned: always
  type: str
  sample: '15'
systemd:
  description: Whether the host was booted with systemd.
  returned: always
  type: bool
memory_mb:
  description: The host's memory, or the memory limit of the container, in MiB.
  returned: always
  type: int
hostname:
  description: The host's name.
  returned: always
  type: str
locales:
  description: The locales that the host has.
  returned: always
  type: list
  elements: str
packages:
  description: The installed version of each of O(packages), empty if it is not installed.
  returned: always
  type: dict
  sample: {postgresql-15: 15.13-0+deb12u1, python3-psycopg2: ''}
repository_missing:
  description: Whether none of apt's sources is O(repository). False if that is empty.
  returned: always
  type: bool
extensions:
  description: The extensions of which the files are installed for this major version.
  returned: always
  type: list
  elements: str
clusters:
  description: All clusters of postgresql-common on this host.
  returned: always
  type: list
  elements: dict
  sample: [{version: '15', cluster: main, port: 5432, data_directory: /var/lib/postgresql/15/main, running: true}]
port_taken:
  description: Whether something other than this cluster answers on O(port).
  returned: always
  type: bool
tls_missing:
  description: Those of O(tls_files) that do not exist.
  returned: always
  type: list
  elements: str
tls_problem:
  description: Why the server could not use O(tls_files) that do exist; empty if it could.
  returned: always
  type: str
cluster:
  description: The cluster itself.
  returned: always
  type: dict
  contains:
    exists:
      description: Whether postgresql-common knows it.
      type: bool
    configuration_directory:
      description: Where its configuration is or would be.
      type: str
    data_directory:
      description: Where its data are or would be.
      type: str
    data_version:
      description: The major version that the data directory is of. Empty if there are no data.
      type: str
    data_present:
      description: Whether the data directory holds anything at all.
      type: bool
    includes_conf_d:
      description: Whether its C(postgresql.conf) includes the directory C(conf.d).
      type: bool
    starts_at_boot:
      description: Whether it starts together with the host.
      type: bool
    running:
      description: Whether its server runs.
      type: bool
    port:
      description: The port on which it listens, or on which it would after a start.
      type: int
    accepting:
      description: Whether it accepts connections of the operating system user postgres.
      type: bool
    problem:
      description: What it said instead of accepting a connection.
      type: str
    standby:
      description: Whether it is in recovery or would start as a standby.
      type: bool
    server_version:
      description: The server's full version.
      type: str
    stale:
      description: Whether this collection's configuration files or the TLS files are newer than what the server has loaded.
      type: bool
    pending_restart:
      description: Settings that wait for a restart.
      type: list
      elements: str
    errors:
      description: What the server finds wrong in its configuration files.
      type: list
      elements: str
"""

import glob
import json
import os
import platform
import pwd
import re
import socket
import ssl
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.schema_registry.postgresql.plugins.module_utils import _cluster

STATE = """
select json_build_object(
    'standby', pg_is_in_recovery(),
    'server_version', current_setting('server_version'),
    'loaded_at', extract(epoch from pg_conf_load_time()),
    'pending_restart', (select coalesce(json_agg(name order by name), '[]') from pg_settings where pending_restart),
    'errors', (
        select coalesce(json_agg(problem), '[]')
        from (
            select format('%s line %s: %s: %s', f.sourcefile, f.sourceline, f.name, f.error) as problem
            from pg_file_settings as f
            left join pg_settings as s on s.name = f.name
            where f.error is not null and s.context is distinct from 'postmaster'
            union all
            select format('pg_hba.conf line %s: %s', line_number, error) from pg_hba_file_rules where error is not null
        ) as problems
    )
)
"""


def read(path: str) -> str:
    """The text of a file; empty if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def modified_at(paths: t.Iterable[str]) -> float:
    """When the newest of the files was modified."""
    return max((os.stat(path).st_mtime for path in paths if os.path.exists(path)), default=0.0)


def os_release(text: str) -> t.Dict[str, str]:
    """The keys of /etc/os-release."""
    return dict(re.findall(r"""^([A-Z_]+)=["']?(.*?)["']?$""", text, re.MULTILINE))


def get_platform(module: AnsibleModule) -> t.Dict[str, str]:
    """The operating system's name, version and architecture."""
    release = os_release(read("/etc/os-release"))
    dpkg = module.get_bin_path("dpkg")
    architecture = module.run_command([dpkg, "--print-architecture"])[1].strip() if dpkg else platform.machine()
    return {
        "id": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "codename": release.get("VERSION_CODENAME", ""),
        "name": release.get("PRETTY_NAME", platform.system()),
        "architecture": architecture,
    }


def get_memory_mb() -> int:
    """The host's memory, or what the control group leaves of it."""
    total = int(re.findall(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.MULTILINE)[0]) // 1024
    limits = (read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min([total] + [int(limit) // 1024**2 for limit in limits if limit.strip().isdigit()])


def get_packages(module: AnsibleModule, names: t.List[str]) -> t.Dict[str, str]:
    """The installed version of each package."""
    found = dict.fromkeys(names, "")
    query = module.get_bin_path("dpkg-query")
    if query and names:
        out = module.run_command([query, "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n", *names])[1]
        found.update((line[1], line[2]) for line in map(str.split, out.splitlines()) if line[0] == "installed" and len(line) == 3)
    return found


def get_repository_missing(repository: str, directory: str = "/etc/apt") -> bool:
    """Whether no source of apt has this address and suite."""
    if not repository:
        return False
    wanted = {"deb", *(word.rstrip("/") for word in repository.split())}
    sources = read(directory + "/sources.list").splitlines()
    for path in glob.glob(directory + "/sources.list.d/*"):
        text = re.sub(r"^#.*\n?", "", read(path), flags=re.MULTILINE)
        # One source in each line, or in each paragraph.
        sources += text.splitlines() if path.endswith(".list") else re.split(r"\n\s*\n", text) if path.endswith(".sources") else []
    sources = [source.split("#")[0] for source in sources if not re.search(r"^Enabled:\s*no\b", source, re.MULTILINE | re.IGNORECASE)]
    return not any(wanted <= {word.rstrip("/") for word in source.split()} for source in sources)


def get_clusters(module: AnsibleModule) -> t.List[t.Dict[str, t.Any]]:
    """What pg_lsclusters knows."""
    command = module.get_bin_path("pg_lsclusters")
    if not command:
        return []
    out = module.run_command([command, "--json"], check_rc=True)[1]
    return [
        {
            "version": str(cluster["version"]),
            "cluster": cluster["cluster"],
            "port": int(cluster["port"]),
            "data_directory": cluster.get("pgdata") or "",
            "running": bool(cluster.get("running")),
        }
        for cluster in json.loads(out)
    ]


def get_postmaster(data_directory: str) -> t.Optional[t.Tuple[str, str]]:
    """Socket directory (or host) and port of the server that runs on a data directory."""
    lines = read(os.path.join(data_directory, "postmaster.pid")).splitlines()
    if len(lines) < 6 or not os.path.exists("/proc/" + lines[0].strip()):
        return None
    return lines[4].strip() or lines[5].strip().replace("*", "localhost"), lines[3].strip()


def get_starts_at_boot(module: AnsibleModule, directory: str, version: str, name: str, systemd: bool) -> bool:
    """Whether postgresql-common starts the cluster with the host."""
    words = re.sub(r"#.*", "", read(os.path.join(directory, "start.conf"))).split() or ["auto"]
    if words != ["auto"] or not systemd:
        return words == ["auto"]
    unit = "postgresql@%s-%s.service" % (version, name)
    rc, _out, _err = module.run_command(["systemctl", "is-enabled", "--quiet", unit])
    return bool(rc == 0)


def get_tls_problem(files: t.List[str]) -> str:
    """Why the server could not use certificate, key and authority; looked at with the eyes of the user that it runs as."""
    try:
        owner = pwd.getpwnam(_cluster.OWNER)
    except KeyError:
        owner = None
    key = os.stat(files[1])
    allowed = 0o700 if owner and key.st_uid == owner.pw_uid else 0o740
    if key.st_mode & 0o777 & ~allowed or key.st_uid not in (0, owner.pw_uid if owner else 0):
        return "%s must be owned by postgres with mode 0600, or by root with mode 0640 or less" % files[1]
    groups = os.getgroups()
    try:
        if owner:
            os.setgroups(os.getgrouplist(owner.pw_name, owner.pw_gid))
            os.seteuid(owner.pw_uid)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files[0], files[1], password=lambda: "")
        for authority in files[2:]:
            context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        return "%s cannot be used together by the user postgres: %s" % (", ".join(files), error)
    finally:
        os.seteuid(0)
        os.setgroups(groups)
    return ""


def get_live(module: AnsibleModule, version: str, host: str, port: str) -> t.Tuple[str, t.Dict[str, t.Any]]:
    """What the running server says of itself, or what it says instead."""
    psql = [_cluster.program(version, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", _cluster.OWNER]
    rc, out, err = _cluster.as_owner(module, [*psql, "-w", "-d", "postgres", "-c", STATE])
    return ("", json.loads(out)) if rc == 0 else (err.strip(), {})


def get_cluster(module: AnsibleModule, version: str, systemd: bool, clusters: t.List[t.Dict[str, t.Any]], tls_files: t.List[str]) -> t.Dict[str, t.Any]:
    """The state of the cluster in question."""
    name = module.params["cluster"]
    known = [c for c in clusters if (c["version"], c["cluster"]) == (version, name)]
    directory = _cluster.configuration_directory(version, name)
    data = known[0]["data_directory"] if known else module.params["data_directory"] or "/var/lib/postgresql/%s/%s" % (version, name)
    postmaster = get_postmaster(data) if known else None
    state: t.Dict[str, t.Any] = {
        "exists": bool(known),
        "configuration_directory": directory,
        "data_directory": data,
        "data_version": read(os.path.join(data, "PG_VERSION")).strip(),
        "data_present": os.path.isdir(data) and bool(os.listdir(data)),
        "includes_conf_d": bool(re.search(r"^\s*include_dir[\s=]+'conf\.d'", read(directory + "/postgresql.conf"), re.MULTILINE)),
        "starts_at_boot": bool(known) and get_starts_at_boot(module, directory, version, name, systemd),
        "running": postmaster is not None,
        "port": int(postmaster[1]) if postmaster else known[0]["port"] if known else module.params["port"],
        "accepting": False,
        "problem": "",
        "standby": os.path.exists(os.path.join(data, "standby.signal")),
        "server_version": "",
        "stale": False,
        "pending_restart": [],
        "errors": [],
    }
    if postmaster:
        state["problem"], live = get_live(module, version, *postmaster)
        state["accepting"] = not state["problem"]
        if live:
            loaded_at = float(live.pop("loaded_at"))
            state.update(live, stale=loaded_at < modified_at([*_cluster.owned_files(directory), directory + "/conf.d", *tls_files]))
    return state


def get_port_taken(port: int, cluster: t.Dict[str, t.Any]) -> bool:
    """Whether something else answers on the port."""
    if cluster["running"] and cluster["port"] == port:
        return False
    places = ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "/var/run/postgresql/.s.PGSQL.%d" % port))
    for family, address in places:
        with socket.socket(family) as probe:
            probe.settimeout(1)
            if probe.connect_ex(address) == 0:
                return True
    return False


def main() -> None:
    """Gather, and wait where that was asked for."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "default": ""},
            "default_versions": {"type": "dict", "default": {}},
            "cluster": {"type": "str", "default": "main"},
            "data_directory": {"type": "path", "default": ""},
            "port": {"type": "int", "default": 5432},
            "packages": {"type": "list", "elements": "str", "default": []},
            "repository": {"type": "str", "default": ""},
            "tls_files": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    system = get_platform(module)
    version = module.params["version"] or str(module.params["default_versions"].get("%(id)s-%(version)s" % system, ""))
    systemd = os.path.isdir("/run/systemd/system")
    clusters = get_clusters(module)
    tls_files = [path.replace("{version}", version) for path in module.params["tls_files"]]
    tls_missing = [path for path in tls_files if not os.path.exists(path)]
    deadline = time.monotonic() + module.params["timeout"]
    cluster = get_cluster(module, version, systemd, clusters, tls_files)
    while (not cluster["accepting"] or cluster["stale"]) and cluster["running"] and time.monotonic() < deadline:
        time.sleep(0.2)
        cluster = get_cluster(module, version, systemd, clusters, tls_files)
    controls = glob.glob("/usr/share/postgresql/%s/extension/*.control" % version)
    module.exit_json(
        changed=False,
        platform=system,
        version=version,
        systemd=systemd,
        memory_mb=get_memory_mb(),
        hostname=platform.node(),
        locales=module.run_command(["locale", "-a"])[1].split() if module.get_bin_path("locale") else [],
        packages=get_packages(module, [name.replace("{version}", version) for name in module.params["packages"]]),
        repository_missing=get_repository_missing(module.params["repository"].replace("{codename}", system["codename"])),
        extensions=sorted(os.path.basename(path)[: -len(".control")] for path in controls),
        clusters=clusters,
        cluster=cluster,
        port_taken=get_port_taken(module.params["port"], cluster),
        tls_missing=tls_missing,
        tls_problem=get_tls_problem(tls_files) if tls_files and not tls_missing else "",
    )


if __name__ == "__main__":
    main()
