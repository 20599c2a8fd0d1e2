"""The statements that give roles their passwords, as SCRAM-SHA-256 verifiers: the passwords themselves do not leave the controller.

Reads one JSON object on standard input: ``passwords``, a list of ``kind`` and ``password``, and ``roles``, by kind the quoted ``identifier`` and
the ``verifier`` that the server holds now (or null). Writes a JSON list with a statement for each role whose password is another.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import stringprep
import sys
import unicodedata

VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
FORBIDDEN = (
    stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8, stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """Normalise as RFC 4013 says, or not at all where it forbids the text: that is what PostgreSQL and libpq do."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    right_to_left = any(stringprep.in_table_d1(c) for c in normal)
    if not normal or any(table(c) for c in normal for table in FORBIDDEN):
        return text
    if right_to_left and (
        any(stringprep.in_table_d2(c) for c in normal) or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1]))
    ):
        return text
    return normal


def verifier(password: str, salt: bytes, iterations: int) -> str:
    """The line that PostgreSQL keeps in pg_authid.rolpassword."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"


def wanted(password: str, present: "str | None") -> str:
    """The verifier for this password: the present one if that is right."""
    if VERIFIER.fullmatch(password):  # somebody computed it already
        return password
    parts = VERIFIER.fullmatch(present or "")
    if parts:
        same = verifier(password, base64.b64decode(parts[2]), int(parts[1]))
        if hmac.compare_digest(same, parts[0]):
            return same
    return verifier(password, os.urandom(16), 4096)


def statements(passwords: "list[dict[str, str]]", roles: "dict[str, dict[str, str]]") -> "list[str]":
    """One ALTER ROLE for each password that differs; a verifier needs no quoting."""
    changes = []
    for item in passwords:
        role = roles[item["kind"]]
        new = wanted(item["password"], role["verifier"])
        if new != role["verifier"]:
            changes.append(f"alter role {role['identifier']} password '{new}'")
    return changes


if __name__ == "__main__":
    print(json.dumps(statements(**json.load(sys.stdin))))
