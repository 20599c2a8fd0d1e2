#!/bin/sh
# Items of the CIS PostgreSQL benchmark that are about the host, a line each: item, verdict, what was found, title. It only reads.
#
# cis.sh VERSION CLUSTER DATA_DIRECTORY
set -u
version=$1 cluster=$2 data=$3
configuration=/etc/postgresql/$version/$cluster
home=$(getent passwd postgres | cut -d: -f6)

item() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$(printf %s "$3" | tr '\n\t' '  ')" "$4"; }
# Passes if nothing bad was found.
judge() { if [ -z "$2" ]; then item "$1" pass '' "$3"; else item "$1" fail "$2" "$3"; fi; }
# What is open to more than it should be.
open() { find "$1" -maxdepth 0 -perm "$2" -printf '%p has mode %m ' 2>/dev/null; }

bad=
if [ -d /run/systemd/system ]; then
    [ "$(systemctl is-enabled "postgresql@$version-$cluster" 2>/dev/null)" = enabled ] || bad="postgresql@$version-$cluster is not enabled"
else
    grep -q '^auto' "$configuration/start.conf" || bad="$configuration/start.conf does not say auto"
fi
judge 1.2 "$bad" 'the cluster starts with the host'

bad=$(apt-cache policy "postgresql-$version" | awk '/Installed:/ {i = $2} /Candidate:/ {c = $2} END {if (i != c) print i " is installed, " c " is there"}')
judge 1.4 "$bad" 'the newest known package is installed'

bad=$(grep -ls PGPASSWORD /etc/environment /etc/profile /etc/profile.d/* /root/.profile /root/.bashrc "$home/.profile" "$home/.bashrc" "$home/.bash_profile")
judge 1.6 "$bad" 'PGPASSWORD is in no profile'

bad=$(grep -lsz '^PGPASSWORD=' /proc/[0-9]*/environ)
judge 1.7 "$bad" 'PGPASSWORD is in no environment'

umask=$(su - postgres -c umask 2>/dev/null)
case $umask in *77) bad= ;; *) bad="it is ${umask:-unknown}" ;; esac
judge 2.1 "$bad" 'the umask of postgres is 077'

bad=$(
    open "$data" /077
    for file in pg_hba.conf pg_ident.conf; do open "$configuration/$file" /137; done
    find "$configuration" -name '*.key' -perm /077 -printf '%p has mode %m '
)
judge 2.2 "$bad" 'data, client authentication and keys are closed to others'

bad=$(grep -ls '^[[:space:]]*password' /etc/pg_service.conf /etc/postgresql-common/pg_service.conf "$home/.pg_service.conf")
judge 2.4 "$bad" 'no password is in a service file'

bad=
command -v sudo >/dev/null || bad='there is no sudo'
judge 4.1 "$bad" 'sudo is there'

if [ "$(cat /proc/sys/crypto/fips_enabled 2>/dev/null)" = 1 ]; then
    item 6.7 pass '' 'cryptography is that of FIPS 140'
else
    item 6.7 manual 'the kernel is not in FIPS mode' 'cryptography is that of FIPS 140'
fi
item 8.2 manual 'no tool is looked for' 'there are backups, and they are whole'
