"""Make a host of a Molecule scenario, or take it away: a Debian machine with systemd, as a container, ready for Ansible.

    host.py create NAME --image debian-13 --kind postgresql
    host.py remove NAME

The image is one of Debian's releases, made here from Debian's own packages, or a reference to a registry; that one must have
systemd, sshd, python3 and sudo. What has been done is printed: `created`, `started`, `removed`, or nothing.

Root can log in over SSH, or --user, who is made for that and may use sudo. The file ssh_config in the host's directory
(.ansible/machines/NAME) says how: `ssh -F .ansible/machines/NAME/ssh_config NAME`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

import podman
from podman import CHECKOUT, DEBIAN, KINDS, MachineError, output

MACHINES = CHECKOUT / ".ansible" / "machines"

SSH_CONFIG = """\
Host {name}
  HostName {address}
  User {user}
  IdentityFile {directory}/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  StrictHostKeyChecking yes
  PreferredAuthentications publickey
"""

# The keys of an image would be the same on every host.
ADMIT = """\
set -eu
if ! getent passwd {user} >/dev/null; then
    useradd --create-home --shell /bin/bash {user}
    echo '{user} ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}
fi
mkdir -p -m 0700 ~{user}/.ssh
cat >~{user}/.ssh/authorized_keys
chown -R {user}: ~{user}/.ssh
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
systemctl restart ssh
"""


def image(name: str, kind: str) -> str:
    """The image to use: a reference is left as it is."""
    return name if "/" in name else podman.image(DEBIAN[name], kind)


def create(arguments: argparse.Namespace) -> str:
    """Make the host, or start it again."""
    name = arguments.name
    directory = MACHINES / name
    directory.mkdir(parents=True, exist_ok=True)
    podman.configure_podman(directory)
    with podman.one_at_a_time(name):
        if podman.succeeds("podman", "container", "exists", name):
            running = output("podman", "inspect", "--format", "{{.State.Running}}", name).strip() == "true"
            done = "" if running else "started"
            if not running:
                output("podman", "start", name)
                podman.boot(name)
        else:
            done = "created"
            podman.start(name, image(arguments.image, arguments.kind), arguments.hostname or name)
            podman.boot(name)
            admit(name, arguments.user, directory)
        if done:
            # Another start, another address.
            write_ssh_config(name, arguments.user, directory)
    return done


def admit(name: str, user: str, directory: Path) -> None:
    """Let a user log in over SSH, with a key made for this host alone."""
    key = directory / "id_ed25519"
    key.unlink(missing_ok=True)
    output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user, "-f", str(key))
    public = key.with_suffix(".pub").read_text(encoding="ascii")
    output("podman", "exec", "--interactive", name, "sh", "-c", ADMIT.format(user=user), text=public)


def write_ssh_config(name: str, user: str, directory: Path) -> None:
    """Say how the host is reached, and which key it shows."""
    address = output("podman", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).strip()
    host_key = output("podman", "exec", name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    (directory / "known_hosts").write_text(f"{address} {host_key}", encoding="ascii")
    (directory / "ssh_config").write_text(SSH_CONFIG.format(name=name, address=address, user=user, directory=directory), encoding="utf-8")


def remove(arguments: argparse.Namespace) -> str:
    """Take the host away, if it is there."""
    with podman.one_at_a_time(arguments.name):
        there = podman.succeeds("podman", "container", "exists", arguments.name)
        if there:
            podman.remove(arguments.name)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(MACHINES / arguments.name)
    return "removed" if there else ""


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    creating = verbs.add_parser("create")
    creating.add_argument("--image", default="debian-13", help=f"{', '.join(DEBIAN)}, or a reference to a registry")
    creating.add_argument("--kind", default="host", choices=[*KINDS], help="what is installed already, in an image made here")
    creating.add_argument("--hostname")
    creating.add_argument("--user", default="root", help="who logs in over SSH")
    creating.set_defaults(run=create)
    removing = verbs.add_parser("remove")
    removing.set_defaults(run=remove)
    for verb in (creating, removing):
        verb.add_argument("name")
    arguments = parser.parse_args()
    named = getattr(arguments, "image", "debian-13")
    if named not in DEBIAN and "/" not in named:
        parser.error(f"{named} is neither one of {', '.join(DEBIAN)} nor a reference to a registry, which has a slash in it")
    print(arguments.run(arguments))


if __name__ == "__main__":
    try:
        main()
    except MachineError as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not here. Hosts need: apt-get install podman runc netavark aardvark-dns iptables mmdebstrap")
