-- Standbys and how far they are behind, as a primary sees it; replication slots, and how much WAL they keep.
select application_name as standby, client_addr as address, state, sync_state, replay_lag,
    pg_size_pretty(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, replay_lsn)) as behind
from pg_stat_replication
order by 1;
select slot_name as slot, slot_type as kind, active, wal_status,
    pg_size_pretty(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, restart_lsn)) as keeps
from pg_replication_slots
order by 1;
