"""Debian machines as systemd containers: what this machine allows Podman, and the images that machines are made from.

Everything that a machine needs to know about the network (mirrors, proxies, certificates) is read from the machine that the
tests run on, at run time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import resource
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")

# Debian's releases, and the PostgreSQL that each of them brings.
SUITES = {"bullseye": 13, "bookworm": 15, "trixie": 17}
DEBIAN = {"debian-11": "bullseye", "debian-12": "bookworm", "debian-13": "trixie"}

# What every machine has, and what it has beside that.
MINIMAL = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2")
KINDS = {
    "fresh": ("git", "make", "sudo", "python3"),
    "host": ("openssh-server", "sudo", "python3", "python3-apt"),
    "postgresql": (
        *("openssh-server", "sudo", "python3", "python3-apt", "python3-psycopg2", "acl", "logrotate", "openssl"),
        *("postgresql-{version}", "postgresql-{version}-cron", "postgresql-{version}-timescaledb"),
    ),
}
ABSENT = {"bullseye": ("postgresql-13-timescaledb",), "bookworm": ("postgresql-15-timescaledb",)}

# PostgreSQL's packages make no cluster.
NO_CLUSTER = (
    'mkdir -p "$1/etc/postgresql-common/createcluster.d"',
    'echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.d/image.conf"',
)

# Seven may boot at once, beside other work.
BOOT_SECONDS = 300


class MachineError(Exception):
    """A machine could not be made, or a command on it failed; the message is what was said."""


def output(*command: str, text: str = "") -> str:
    """Run a command here, which must succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Run a command here, and say whether it succeeded."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Let whoever else makes the same thing go first."""
    with Path(tempfile.gettempdir(), f"schema-registry-{os.getuid()}-{hashlib.sha256(what.encode()).hexdigest()[:16]}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def configure_podman(directory: Path) -> None:
    """Ask Podman for no more than this machine allows. A CONTAINERS_CONF of the user's own is left alone."""
    if "CONTAINERS_CONF" in os.environ:
        return
    lines = []
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        # crun refuses cgroups of version 1, and mixed ones.
        lines += ["[engine]", 'runtime = "runc"']
    # Without the right to raise limits (CAP_SYS_RESOURCE, bit 24), those in force are the most there is.
    capabilities = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    if capabilities and not int(capabilities[1], 16) >> 24 & 1:
        files, processes = (resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
        processes = 32768 if processes == resource.RLIM_INFINITY else min(processes, 32768)
        lines += ["[containers]", f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]']
    configuration = directory / "containers.conf"
    configuration.write_text("\n".join([*lines, ""]), encoding="utf-8")
    os.environ["CONTAINERS_CONF"] = str(configuration)


def mirrors(suite: str) -> list[str]:
    """The sources.list of a suite, from this machine's own mirrors; empty where this machine is no Debian."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line)
    if release["ID"] != "debian":
        return []
    own = release["VERSION_CODENAME"]
    listed = output("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    entries = {tuple(line.split()) for line in listed.splitlines()}
    return [
        f"deb {uri} {suite}{name.removeprefix(own)} {component}"
        for uri, name, component in sorted(entries)
        if name in (own, f"{own}-updates", f"{own}-security") and component == "main"
    ]


def apt_settings() -> list[str]:
    """How apt gets through to the mirrors from here."""
    settings = output("apt-config", "dump").splitlines()
    return [line for line in settings if re.match(r"Acquire::https?::\S*(Proxy|CaInfo)", line, re.IGNORECASE)]


def packages_of(suite: str, kind: str) -> list[str]:
    """What is installed on a machine of this kind."""
    named = [package.format(version=SUITES[suite]) for package in (*MINIMAL, *KINDS[kind])]
    return [package for package in named if package not in ABSENT.get(suite, ())]


def image(suite: str, kind: str = "fresh", rebuild: bool = False) -> str:
    """The image of a machine, built where it is not there yet; Podman keeps it for the next run."""
    packages = ",".join(packages_of(suite, kind))
    hooks = NO_CLUSTER if kind == "postgresql" else ()
    recipe = hashlib.sha256("\n".join([suite, packages, *hooks, *mirrors(suite), *apt_settings()]).encode()).hexdigest()[:12]
    name = f"localhost/schema-registry-{kind}-{suite}:{recipe}"
    with one_at_a_time(name):
        if rebuild or not succeeds("podman", "image", "exists", name):
            _build(name, suite, packages, hooks)
    return name


def _build(name: str, suite: str, packages: str, hooks: tuple[str, ...]) -> None:
    print(f"building {name}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = f"{scratch}/image.tar"
        options = [*(f"--aptopt={setting}" for setting in apt_settings()), *(f"--essential-hook={hook}" for hook in hooks)]
        output("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", *options, suite, archive, *mirrors(suite))
        output("podman", "import", "--quiet", "--change", 'CMD ["/lib/systemd/systemd"]', archive, name)


def start(name: str, image_name: str, hostname: str, *options: str) -> None:
    """Start a container with systemd in it; whoever gave up on it takes it away."""
    output("podman", "run", "--detach", "--systemd=always", "--name", name, "--hostname", hostname, *options, image_name)


def boot(name: str) -> None:
    """Wait until systemd has started everything, and let the machine reach what this one reaches."""
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        state = subprocess.run(["podman", "exec", name, "systemctl", "is-system-running"], capture_output=True, text=True, check=False)
        if state.stdout.strip() in ("running", "degraded"):
            break
        if time.monotonic() > deadline:
            raise MachineError(f"{name} did not boot within {BOOT_SECONDS} s: {state.stdout}{state.stderr}")
        time.sleep(0.2)
    if certificates := [*LOCAL_CERTIFICATES.rglob("*.crt")]:
        for certificate in certificates:
            write(name, f"{LOCAL_CERTIFICATES}/{certificate.name}", certificate.read_text(encoding="utf-8"))
        output("podman", "exec", name, "update-ca-certificates")


def remove(name: str) -> None:
    """Take a container away, whatever goes on in it."""
    output("podman", "rm", "--force", "--time", "0", name)


def write(name: str, path: str, text: str) -> None:
    """Write a file on a machine, as root."""
    output("podman", "exec", "--interactive", name, "sh", "-c", f"cat >{shlex.quote(path)}", text=text)
