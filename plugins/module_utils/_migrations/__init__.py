# Copyright: Schema Registry contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration engine. **Private** to the collection: no other may import it.

Data flows one way::

    files -> names, checksum, source -> Migration -> plan <- ledger
    plan -> executor -> ledger -> Result

What reads files knows no database, what plans knows neither; only session, ledger, history, lock, executor and
fingerprint speak to PostgreSQL. Nothing here knows Ansible.
"""
