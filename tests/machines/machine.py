"""Fresh Debian machines, as systemd containers: a minimal installation plus git, make, sudo and python3, and nothing else.

Everything a machine needs to know about the network (mirrors, proxies, certificates, pip's index) is read from the machine
that the tests run on, at run time.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
SUITES = ("bookworm", "trixie")

# Beside what every minimal installation has.
GIVEN = ("git", "make", "sudo", "python3")
MINIMAL = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2")


class MachineError(Exception):
    """A machine could not be made, or a command on it failed; the message is what was said."""


def output(*command: str, text: str = "") -> str:
    """Run a command here, which must succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


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


def image(suite: str, rebuild: bool = False) -> str:
    """The image of a fresh machine, built where it is not there yet; Podman keeps it for the next run."""
    packages = ",".join((*MINIMAL, *GIVEN))
    recipe = hashlib.sha256("\n".join([suite, packages, *mirrors(suite), *apt_settings()]).encode()).hexdigest()[:12]
    name = f"localhost/schema-registry-fresh-{suite}:{recipe}"
    if not rebuild and subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0:
        return name
    print(f"building {name}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = f"{scratch}/image.tar"
        options = [f"--aptopt={setting}" for setting in apt_settings()]
        output("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", *options, suite, archive, *mirrors(suite))
        output("podman", "import", "--quiet", "--change", 'CMD ["/lib/systemd/systemd"]', archive, name)
    return name


@dataclass
class Result:
    """What a command on a machine said, and how long that took."""

    command: str
    status: int
    text: str
    seconds: float


class Machine:
    """A running machine; leaving it takes it away."""

    def __init__(self, suite: str, rebuild: bool = False, keep: bool = False) -> None:
        self.suite = suite
        self.name = f"schema-registry-fresh-{suite}-{os.getpid()}"
        self.keep = keep
        self._image = image(suite, rebuild)

    def __enter__(self) -> Machine:
        settings = output(sys.executable, str(CHECKOUT / "scripts" / "pip_settings.py"))
        # Folders of packages that pip knows here, it knows there.
        mounts = [f"--volume={folder}:{folder}:ro" for folder in find_links(settings)]
        output("podman", "run", "--detach", "--systemd=always", "--name", self.name, "--hostname", self.suite, *mounts, self._image)
        try:
            self._boot()
            self._connect(settings)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.keep:
            print(f"kept: podman exec -it {self.name} su - (and podman rm -f {self.name} afterwards)", flush=True)
        else:
            output("podman", "rm", "--force", "--time", "0", self.name)

    def _boot(self) -> None:
        for _second in range(60):
            state = subprocess.run(["podman", "exec", self.name, "systemctl", "is-system-running"], capture_output=True, text=True, check=False)
            if state.stdout.strip() in ("running", "degraded"):
                return
            time.sleep(1)
        raise MachineError(f"{self.name} did not boot within a minute: {state.stdout}{state.stderr}")

    def _connect(self, pip_settings: str) -> None:
        """Let it reach what this machine reaches, the way this machine does."""
        self.write("/etc/pip.conf", pip_settings)
        if certificates := [*LOCAL_CERTIFICATES.rglob("*.crt")]:
            for certificate in certificates:
                self.write(f"{LOCAL_CERTIFICATES}/{certificate.name}", certificate.read_text(encoding="utf-8"))
            self.must("update-ca-certificates")

    def write(self, path: str, text: str) -> None:
        """Write a file, as root."""
        output("podman", "exec", "--interactive", self.name, "sh", "-c", f"cat >{shlex.quote(path)}", text=text)

    def run(self, command: str, user: str = "root") -> Result:
        """Run a command as it would run in a user's login shell; what it says is read while it says it."""
        started = time.monotonic()
        done = subprocess.run(
            ["podman", "exec", self.name, "su", "--login", user, "--command", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return Result(command, done.returncode, done.stdout, time.monotonic() - started)

    def must(self, command: str, user: str = "root") -> Result:
        """Run a command, which must succeed."""
        result = self.run(command, user)
        if result.status != 0:
            raise MachineError(f"{command} ended with {result.status} on {self.suite}:\n{result.text}")
        return result

    def add_user(self, name: str) -> None:
        """Make a user who may become root."""
        self.must(f"useradd --create-home --shell /bin/bash --groups sudo {name}")
        self.write(f"/etc/sudoers.d/{name}", f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n")

    def receive(self, folder: Path, target: str, user: str) -> None:
        """Copy a folder onto the machine, as the user's own."""
        output("podman", "cp", f"{folder}/.", f"{self.name}:{target}")
        self.must(f"chown -R {user}: {target}")


def find_links(pip_settings: str) -> list[str]:
    """The folders of this machine that pip looks for packages in."""
    words = re.findall(r"^find-links = (.*(?:\n\s+.+)*)", pip_settings, re.MULTILINE)
    return sorted({word for line in words for word in line.split() if Path(word).is_dir()})
